"""The paper's five fine-grained subsets of ILSVRC2012 (Sec. 2)."""

# Table 7: each class's synset and the paper's name for it
TABLE_7 = {
    "imagenet_dog": """n02091244 Ibizan hound; n02088632 bluetick; n02088364 beagle;
        n02088094 Afghan hound; n02092339 Weimaraner; n02091831 Saluki; n02090379 redbone;
        n02091635 otterhound; n02091467 Norwegian elkhound; n02088238 basset hound;
        n02092002 Scottish deerhound; n02088466 bloodhound""",
    "imagenet_car": """n03777568 Model T; n04037443 race car; n04285008 sports car;
        n03770679 minivan; n02701002 ambulance; n02930766 cab; n02814533 beach wagon;
        n03594945 jeep; n03100240 convertible; n03670208 limo""",
    "imagenet_snake": """n01728920 ringneck snake; n01739381 vine snake; n01729322 hognose snake;
        n01728572 thunder snake; n01735189 garter snake; n01734418 king snake;
        n01740131 night snake; n01729977 green snake; n01737021 water snake""",
    "imagenet_spider": """n01774750 tarantula; n01773157 Argiope aurantia; n01773549 barn spider;
        n01774384 black widow; n01773797 garden spider; n01775062 wolf spider""",
    "imagenet_fungus": """n13040303 stinkhorn; n13054560 bolete; n13052670 hen-of-the-woods;
        n13044778 earthstar; n13037406 gyromitra; n12985857 coral fungus""",
}
SUBSETS = {  # subset -> synset -> name
    subset: dict(entry.split(maxsplit=1) for entry in classes.split(";"))
    for subset, classes in TABLE_7.items()
}
# Table 1: training and test images
COUNTS = {"imagenet_dog": (14864, 600), "imagenet_car": (13000, 500)}
COUNTS |= {"imagenet_snake": (11700, 450)}
COUNTS |= dict.fromkeys(("imagenet_spider", "imagenet_fungus"), (7800, 300))
