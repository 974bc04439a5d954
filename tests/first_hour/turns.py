"""Wrong turns of a first hour: command lines with a mistake, and a part of the sentence that answers each.

In an argument, `{photos}` and the other names stand for what `wrong_turns` has made in the working folder.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Turn:
    """One wrong turn.

    Attributes:
        command: the command line after `reid-jax`.
        sentence: part of the sentence.
        what: the mistake in a few words.
    """

    command: str
    sentence: str
    what: str


_MFV = "train --config mfv"
_FIT = "train --config bot --config.init.weights={bot}"
_EXTRACT = "extract --images {photos} --output new.npz"

TURNS = (
    # ---- training: names ----
    Turn("train", "expected --config FILE", "no config"),
    Turn("train --config mvf", "did you mean 'mfv'", "config misspelled"),
    Turn("train --config mfv:market1510", "did you mean 'market1501'", "preset misspelled"),
    Turn("train --config mfv:demo,mfv_sfda", "did you mean 'mfv_sdfa'", "row misspelled"),
    Turn(f"{_MFV} --config.train.epoch=3", "did you mean 'train.epochs'", "key misspelled"),
    Turn(f"{_MFV} --train.epochs=3", "did you mean --config.train.epochs?", "flag without config."),
    Turn(f"{_MFV} market1501", "expected flags only", "preset as an argument"),
    Turn(f"{_MFV} --config.optimizer.name=adma", "did you mean 'adam'", "optimizer misspelled"),
    Turn(f"{_MFV} --config.optimizer.lerning_rate=1", "did you mean 'optimizer.learning_rate'", "option misspelled"),
    Turn(f"{_MFV} --config.losses.ce_b.loss=cross_entrpy", "did you mean 'cross_entropy'", "loss misspelled"),
    Turn(f"{_MFV} --config.losses.ce_b.on=logits/x", "unknown output 'logits/x'", "output that no head has"),
    Turn(f"{_MFV} --config.schedule.name=cosin", "did you mean 'cosine'", "schedule misspelled"),
    Turn(f"{_MFV} --config.dtype=bflot16", "did you mean 'bfloat16'", "number type misspelled"),
    Turn(f"{_MFV} --config.data.sampler.name=identity_group", "did you mean 'identity_groups'", "sampler misspelled"),
    Turn(f"{_MFV} --config.model.widht=8", "did you mean 'width'", "model option misspelled"),
    Turn(f"{_MFV} --config.evals.metric=cosin", "did you mean 'cosine'", "distance misspelled"),
    # ---- training: values ----
    Turn(
        "train --config osnet:market1501 --config.train.epochs=2", "phases.all.train.epochs", "key that phases replace"
    ),
    Turn(f"{_MFV} --config.train.epochs=0", "train.epochs must be a number above 0", "no epochs"),
    Turn(
        f"{_MFV} --config.train.epochs=many",
        "expected a number as --config.train.epochs, got 'many'",
        "a word for a number",
    ),
    Turn(f"{_MFV} --config.data.sampler.identities=200", "200 identities was asked for", "more people than there are"),
    Turn(f"{_MFV} --config.train.accumulate=7", "divisible into 7 micro-batches", "micro-batches that do not fit"),
    Turn(f"{_MFV} --config.data.augment.erase.area=(0.4,0.02)", "0 < area low <= high", "range upside down"),
    Turn(f"{_MFV} --config.optimizer.learning_rate=-1", "learning_rate must be a number", "negative rate"),
    Turn(
        f"{_MFV} --config.schedule.warmup_epochs=20 --config.schedule.total_epochs=10",
        "is 20 of 10 epochs",
        "warm-up longer than the schedule",
    ),
    Turn(f"{_MFV} --config.evals.batch_size=0", "evals.batch_size must be a whole number", "an empty batch"),
    # ---- training: what it starts from ----
    Turn("train --config mfv:market1501", "or start from random weights with --config.init", "weights not here"),
    Turn(f"{_MFV} --config.init.weights=resnet50_imagnet", "did you mean 'resnet50_imagenet'", "weights misspelled"),
    Turn(f"{_MFV} --config.init.weights=no.pth", "found nothing at no.pth", "weights that are not there"),
    Turn(_FIT, "the weights are not those of this model", "weights of another model"),
    Turn(f"{_MFV} --config.init.weights={{code}}", "holds code", "weights that hold code"),
    Turn(f"{_MFV} --config.init.weights={{empty_run}}", "expected a run with a checkpoint", "run without a checkpoint"),
    Turn(f"{_MFV} --config.init.trained=runs/no", "expected a run folder", "a run that is not there"),
    # ---- training: folders ----
    Turn(
        "train --config mfv:market1501 --config.init.weights=scratch", "expected the files of data set", "no data set"
    ),
    Turn(f"{_MFV} --workdir={{features}}", "expected --workdir to be a folder", "a file as run folder"),
    Turn(f"{_MFV} --workdir={{run}} --config.seed=3", "contains a run of another config", "folder of another run"),
    Turn(f"{_MFV} --workdir={{run}} --config.train.epochs=99", "add --extend to continue that run", "more epochs"),
    Turn(f"{_MFV} --workdir={{run}} --config.train.epochs=2 --extend", "expected a longer last phase", "fewer epochs"),
    Turn(f"{_MFV} --mode=eval --workdir=runs/new", "expected a run folder", "evaluation before training"),
    # ---- data ----
    Turn("prepare-dataset market1510", "did you mean 'market1501'", "data set misspelled"),
    Turn("prepare-dataset market1501 --source no", "expected the files of data set", "folder that is not there"),
    Turn("prepare-dataset market1501 --source {photos}", "expected the folders", "another layout"),
    Turn("contact-sheet market1501 --output sheet.png", "market1501", "sheet of what is not prepared"),
    # ---- features and scores ----
    Turn(f"{_EXTRACT} --model bott --random-weights", "did you mean 'bot'", "model misspelled"),
    Turn(f"{_EXTRACT} --model bot", "needs --weights FILE or NAME", "model without weights"),
    Turn(f"{_EXTRACT} --weights osnet_x0_25_msmt17", "put the file osnet_x0_25_msmt17", "weights not here, offline"),
    Turn(f"{_EXTRACT} --model bot --weights {{bot}}", "the weights are not those of this model", "of another model"),
    Turn("extract --run {empty_run} --images {photos} --output new.npz", "no checkpoint", "run without a checkpoint"),
    Turn("extract --model bot --random-weights --images no --output new.npz", "there is no no", "no such images"),
    Turn("extract --model bot --random-weights --images {photos} --output new.csv", "end in .npz", "another ending"),
    Turn("evaluate", "is required", "nothing to evaluate"),
    Turn("evaluate --features no.npz", "found nothing", "features that are not there"),
    Turn("evaluate --features {broken}", "broken.npz", "a damaged file"),
    Turn("evaluate --features {features} --metric cosin", "did you mean 'cosine'", "distance misspelled"),
    Turn("evaluate --features {features} --html page.html", "--images DIR", "page without its images"),
    Turn("evaluate --weights w.pth --images {photos}", "expected --model NAME", "weights without a model"),
    Turn("evaluate --run {empty_run}", "no checkpoint", "run without a checkpoint"),
    # ---- weights, tables, speed ----
    Turn("weights get resnet50_imagnet", "did you mean 'resnet50_imagenet'", "name misspelled"),
    Turn("weights get resnet50_imagenet --offline", "put the file resnet50-19c8e357.pth", "not here, offline"),
    Turn("weights export {empty_run} out.npz", "expected a run with a checkpoint", "run without a checkpoint"),
    Turn("convert-weights --model bot --weights {bot} --output out", "not those of this model", "of another model"),
    Turn("convert-weights --model bot --weights {photos} --output out", "found a folder", "a folder as weights"),
    Turn("ablate --config mfv --rows mfv_bse", "did you mean 'mfv_base'", "row misspelled"),
    Turn("ablate --config mfv --rows mfv --override train.epoch=3", "did you mean 'train.epochs'", "key misspelled"),
    Turn("benchmark train --model resnet51", "did you mean 'resnet50'", "model misspelled"),
    Turn("benchmark tain", "did you mean 'train'", "kind misspelled"),
    Turn("training-report runs/no", "expected a run folder", "a run that is not there"),
    Turn("check-resume --config mfv", "arguments are required: --workdir", "no folder"),
    # ---- search ----
    Turn("search biuld new.gallery --features {features}", "did you mean 'build'", "action misspelled"),
    Turn("search build --features {features}", "expected a gallery", "no gallery"),
    Turn("search build new.gallery", "expected images: --features FILE", "no images"),
    Turn("search build {gallery} --features {features}", "exists already", "a gallery that is there"),
    Turn("search build new.gallery --features no.npz", "expected a features file", "features that are not there"),
    Turn("search build new.gallery --features {broken}", "broken.npz", "a damaged file"),
    Turn("search build new.gallery --features {features} --keep 30x", "such as 72h", "a span that is none"),
    Turn("search build new.gallery --features {features} --model bot", "leave the model out", "features and a model"),
    Turn("search add no.gallery --features {features}", "no.gallery", "a gallery that is not there"),
    Turn("search add {features} --features {features}", "features.npz", "a file that is no gallery"),
    Turn("search add {gallery} --features {features}", "--skip-existing", "images that are there already"),
    Turn("search query {gallery} --features {features}", "--why", "a search without a reason"),
    Turn("search query {gallery} --why test", "--entry N", "nothing to search"),
    Turn("search query {gallery} --why test --entry 99", "99", "an entry that is not there"),
    Turn(
        "search query {gallery} --why test --features {wide}",
        "of shape 8, the query with 9",
        "features of another model",
    ),
    Turn("search query {gallery} --why test --entry 1 --camera 7", "camera", "a camera that nobody has"),
    Turn("search query {gallery} --why test --entry 1 --since yesterday", "--since", "a time that is none"),
    Turn("search query {gallery} --why test --entry 1 --json a.txt", ".json", "another ending"),
    Turn("search query {gallery} --why test --images {photos} --box 1,2,3,4", "--model", "a box without a model"),
    Turn("search remove {gallery}", "expected", "nothing chosen to remove"),
    Turn("search remove {gallery} --identity nobody --why test", "nobody", "a person that is not there"),
    Turn("search calibrate {gallery}", "expected --rate R", "no rate"),
    Turn("search calibrate {gallery} --rate 2", "--rate", "a rate above all"),
    Turn("search serve {gallery}", "--run", "a page without a model"),
    Turn("search serve {gallery} --model bot --random-weights --host nowhere.invalid", "nowhere.invalid", "no address"),
    Turn(
        "search serve {gallery} --model bot --random-weights --port {port}",
        "give another host or port",
        "a port that is taken",
    ),
    Turn("search info {gallery} --top 3", "--top goes with query", "an option of another action"),
    Turn("search info mysql://host/base", "postgresql://", "another kind of server"),
    # ---- explain and export ----
    Turn("explain shet --run {empty_run} --output a.png", "did you mean 'sheet'", "action misspelled"),
    Turn(
        "explain --model bot --random-weights --query {photos}/0.png",
        "expected --gallery PATH",
        "nothing to compare with",
    ),
    Turn("explain --model bot --random-weights --output a.png", "expected --gallery PATH", "nothing to explain"),
    Turn("explain --run {empty_run} --query no.png --output a.png", "no.png", "an image that is not there"),
    Turn("explain --run {empty_run} --pictures atention --output a.png", "did you mean 'attention'", "misspelled"),
    Turn("explain --run {empty_run} --output a.pdf", ".png", "another ending"),
    Turn("explain --run {empty_run} --output a.png", "no checkpoint", "run without a checkpoint"),
    Turn("explain map --features {features} --method pca --output map.html", "--images DIR", "map without its images"),
    Turn("explain map --features {features} --method umap --output map.html", "tsne", "a method that is none"),
    Turn("export --model bot --random-weights", "expected --output FILE", "no output"),
    Turn("export --model bot --random-weights --output bot.onnx", ".zip", "ending of the other format"),
    Turn("export --model bot --random-weights --format onxx --output a.onnx", "did you mean 'onnx'", "misspelled"),
    Turn("export --model bot --output bot.zip", "needs --weights FILE or NAME", "model without weights"),
    Turn("export --run {empty_run} --output a.zip", "no checkpoint", "run without a checkpoint"),
    Turn("export --run {empty_run} --platforms gpu --output a.zip", "cuda", "another name of a device"),
    Turn("export --run {empty_run} --false-match-rate 0.5 --output a.zip", "1e-3", "a rate that is not reported"),
    Turn("evalute --run runs/x", "did you mean 'evaluate'", "command misspelled"),
)
