"""How methods, measures and rows are called where they are shown."""

LABELS = {"msp": "MSP", "odin": "ODIN", "accuracy": "Accuracy", "classification": "Classification-only"}
LABELS |= {"rotation": "Rotation-augmented", "cpc": "CPC-augmented", "center_mask": "Random-center-masked"}
LABELS |= {"msp_t1000": "MSP (T = 1000)", "max_logit": "Max logit", "energy": "Energy", "entropy": "Entropy", "gen": "GEN"}
LABELS |= {"mahalanobis": "Mahalanobis", "rmd": "RMD", "knn": "KNN", "cosine": "Cosine", "vim": "ViM", "react": "ReAct"}
LABELS |= {"scale": "SCALE", "fdbd": "fDBD", "nnguide": "NNGuide"}
ROWS = {"average": "Average", "cifar10": "CIFAR-10", "stl10": "STL-10"}  # a class is called as its folder is


def label(name: str) -> str:
    """How a method or a measure is shown: the paper's words, or a user's function without its module."""
    return LABELS.get(name, name.rpartition(":")[2])
