"""Living17: the four ImageNet classes of each of its 17 classes.

Source: Santurkar, Tsipras, Madry 2021, BREEDS, arXiv:2008.04859. Two classes of the source domain, then two
of the target.
"""

LIVING17 = {
    "salamander": (
        "n01631663",
        "n01632777",
        "n01630670",
        "n01632458",
    ),  # eft, axolotl; common newt, spotted salamander
    "turtle": (
        "n01669191",
        "n01665541",
        "n01664065",
        "n01667114",
    ),  # box, leatherback; loggerhead, mud turtle
    "lizard": (
        "n01685808",
        "n01689811",
        "n01694178",
        "n01675722",
    ),  # whiptail, alligator lizard; African chameleon, banded gecko
    "snake": (
        "n01740131",
        "n01735189",
        "n01751748",
        "n01742172",
    ),  # night, garter; sea snake, boa constrictor
    "spider": (
        "n01774750",
        "n01773157",
        "n01773797",
        "n01775062",
    ),  # tarantula, black and gold garden; garden, wolf spider
    "grouse": (
        "n01796340",
        "n01798484",
        "n01797886",
        "n01795545",
    ),  # ptarmigan, prairie chicken; ruffed, black grouse
    "parrot": (
        "n01818515",
        "n01820546",
        "n01817953",
        "n01819313",
    ),  # macaw, lorikeet; African grey, sulphur-crested cockatoo
    "crab": ("n01978287", "n01980166", "n01978455", "n01981276"),  # Dungeness, fiddler; rock, king crab
    "dog": (
        "n02088466",
        "n02086079",
        "n02111500",
        "n02086910",
    ),  # bloodhound, Pekinese; Great Pyrenees, papillon
    "wolf": ("n02114855", "n02114712", "n02114548", "n02114367"),  # coyote, red wolf; white, timber wolf
    "fox": ("n02120505", "n02120079", "n02119022", "n02119789"),  # grey, Arctic; red, kit fox
    "domestic cat": (
        "n02123159",
        "n02124075",
        "n02123394",
        "n02123597",
    ),  # tiger cat, Egyptian; Persian, Siamese
    "bear": ("n02134418", "n02133161", "n02134084", "n02132136"),  # sloth, American black; ice, brown bear
    "beetle": (
        "n02172182",
        "n02174001",
        "n02167151",
        "n02168699",
    ),  # dung, rhinoceros; ground, long-horned beetle
    "butterfly": ("n02281406", "n02276258", "n02280649", "n02277742"),  # sulphur, admiral; cabbage, ringlet
    "ape": ("n02483362", "n02480495", "n02480855", "n02481823"),  # gibbon, orangutan; gorilla, chimpanzee
    "monkey": ("n02490219", "n02493509", "n02493793", "n02492660"),  # marmoset, titi; spider, howler monkey
}
