"""Detecting Semantic Anomalies (Ahmed & Courville, AAAI 2020). The method is these files, in order:

datasets/splits.py      Sec. 2: hold out a class, train on the others, test on all
models/wide_resnet.py   Sec. 5.1: wide residual networks with a head for each task
auxiliary.py            Sec. 4: the losses of rotation and contrastive predictive coding
training.py             Sec. 4, 5.1: a step on the auxiliary task, then one on classification
metrics/scores.py       Sec. 5: MSP and ODIN
metrics/detection.py    Sec. 2, Eq. 4: average precision
holdout.py              Sec. 2, 5: all of it for one held-out class

Training is an iterator over epochs, and what is done after each is up to the caller:

    split = datasets.hold_out(datasets.load("digits"), "8")
    net = models.build("wrn-10-2", classes=9, image_shape=(1, 8, 8), heads={"rotation": 4})
    recipe = training.Recipe(epochs=10, batch_size=32, schedule="one_cycle", flip=False)
    for state in training.train(net, split.train, recipe, auxiliary.rotation, seed=0):
        print(state.epoch, state.loss)
"""
