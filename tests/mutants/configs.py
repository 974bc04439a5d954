"""Deliberate mistakes in the numbers and choices of recipes; AMFOR's, CFAT's and CIL's stand with their methods."""

from tests.mutants import entries


def _of(system):
    test = f"tests/recipes/test_recipes.py::test_recipe_is_the_one_in_its_table[{system}]"
    return entries.group(system, f"configs/{system}.py", test, level="config")


mfv, mgaf, mspf, osnet, bot, transreid, mgn = map(_of, ("mfv", "mgaf", "mspf", "osnet", "bot", "transreid", "mgn"))

MUTANTS = (
    mfv("auxiliary = 0.5", "auxiliary = 1.0", "weight of the first stages 1"),
    mfv('"label_smoothing": 0.1', '"label_smoothing": 0.0', "no label smoothing"),
    mfv('"weight": weight, "margin": 0.3', '"weight": weight, "margin": 0.5', "margin .5"),
    mfv(
        '"on": f"triplet/{head}"', '"on": f"feature/{head}"', "the triplet loss reads the feature, whatever the layout"
    ),
    mfv('"learning_rate": 4e-4', '"learning_rate": 4e-3', "ten times the rate"),
    mfv('(".*/transformer/.*", 0.5)', '(".*/transformer/.*", 1.0)', "transformer at the full rate"),
    mfv('(".*bias", 5e-4), (".*", 1e-3)', '(".*", 5e-4),', "one decay"),
    mfv('"factor": 0.4', '"factor": 0.1', "factor .1"),
    mfv("(50, 70, 90, 110, 130, 150)", "(50, 70, 90, 110, 130)", "a milestone fewer"),
    mfv('"warmup_epochs": 10', '"warmup_epochs": 5', "warm-up of 5 epochs"),
    mfv("train.epochs = 180.0", "train.epochs = 170.0", "170 epochs"),
    mgaf('"weight": 1.0, "margin": 1.2', '"weight": 1.0, "margin": 0.3', "margin .3"),
    mgaf('"b2": 0.99,', "", "b2 .999"),
    mgaf('"milestones_epochs": (320, 370)', '"milestones_epochs": (320, 380)', "drops as MGN's"),
    mgaf(
        '"height": 384, "width": 128, "interpolation": "bicubic"',
        '"height": 384, "width": 128, "interpolation": "bilinear"',
        "bilinear",
    ),
    mgaf('"name": "identity_epoch", "identities": 8', '"name": "image_epoch", "identities": 8', "epochs by images"),
    mgaf('preprocess.erase_fill = "zero"', 'preprocess.erase_fill = "mean_raw"', "boxes filled with the mean"),
    mgaf("config.evals.flip = True", "config.evals.flip = False", "no mirror image in tests"),
    mgaf('"weight_decays": ((".*", 5e-4),)', '"weight_decays": ((".*", 0.0),)', "no decay"),
    mgaf("share = 1.0 / len(heads)", "share = 1.0", "losses summed over heads"),
    mgaf("share = triplet / len(present)", "share = triplet / len(heads)", "triplet losses averaged over all heads"),
    mspf("CENTER_WEIGHT = 0.0007", "CENTER_WEIGHT = 0.0005", "center loss of OSFA's weight"),
    mspf('"scale": 1 / (0.5 * CENTER_WEIGHT)', '"scale": 1.0', "centers' step follows the loss weight"),
    mspf('"warmup_epochs": 39', '"warmup_epochs": 40', "warm-up a epoch longer"),
    mspf('"learning_rate": 3.5e-4', '"learning_rate": 3.5e-5', "a tenth of the rate"),
    mspf('"milestones_epochs": (100, 130)', '"milestones_epochs": (101, 131)', "drops an epoch late"),
    mspf("(0.4914, 0.4822, 0.4465)", "(0.485, 0.456, 0.406)", "fill"),
    mspf(
        '"on": f"feature/{head}", "weight": 0.5, "margin": 0.3',
        '"on": f"neck/{head}", "weight": 0.5, "margin": 0.3',
        "triplet loss after the neck",
    ),
    osnet('"name": "amsgrad"', '"name": "adam"', "Adam for AMSGrad"),
    osnet('"frozen": ("(?!classifier/).*",)', '"frozen": ()', "the first phase trains everything"),
    osnet(
        '"network": "params", "train": False',
        '"network": "params", "train": True',
        "the first phase updates statistics",
    ),
    osnet('"milestones_epochs": (50, 110)', '"milestones_epochs": (60, 120)', "drops counted from the second phase"),
    osnet('{"name": "shuffle", "batch_size": 64}', '{"name": "shuffle", "batch_size": 32}', "batches of 32"),
    bot('"warmup_start": 0.1', '"warmup_start": 0.01', "warm-up from a hundredth"),
    bot(
        '"on": "feature/b", "weight": 1.0, "margin": 0.3',
        '"on": "neck/b", "weight": 1.0, "margin": 0.3',
        "triplet loss after the neck",
    ),
    bot('milestones_epochs": (40, 70)', 'milestones_epochs": (30, 55)', "milestones"),
    bot('config.evals.metric = "cosine"', 'config.evals.metric = "euclidean"', "Euclidean distance"),
    transreid('"margin": "soft"', '"margin": 0.3', "hard margin"),
    transreid('(".*bias", 2.0)', '(".*bias", 1.0)', "biases at the plain rate"),
    transreid(
        'for name, weight in (("g", 0.5), *((part, 0.125)',
        'for name, weight in (("g", 0.5), *((part, 0.5)',
        "local losses undivided",
    ),
    transreid('"first_epoch": 1', '"first_epoch": 0', "epochs counted from 0"),
    transreid('"mean": (0.5, 0.5, 0.5)', '"mean": (0.485, 0.456, 0.406)', "ImageNet's mean"),
    transreid('"log_aspect": True', '"log_aspect": False', "aspect drawn uniformly"),
    transreid('"sie": "camera"', '"sie": "none"', "no camera embedding"),
    mgn('"momentum": 0.9', '"momentum": 0.0', "no momentum"),
    mgn('"weight": 1 / 3, "margin": 1.2', '"weight": 1.0, "margin": 1.2', "triplet losses summed"),
    mgn('"milestones_epochs": (40, 60)', '"milestones_epochs": (50, 70)', "milestones"),
)
