"""Deliberate mistakes in masked pretraining: masks, network, losses, fills, leak check, recipe."""

from tests.mutants import entries

masks = entries.group("mim", "reid_jax/ops/masks.py", "tests/ops/test_masks.py")
network = entries.group("mim", "reid_jax/models/masked_autoencoder.py", "tests/models/test_masked_autoencoder.py")
codes = entries.group("mim", "reid_jax/models/backbones/position_codes.py", "tests/models/test_masked_autoencoder.py")
statistics = entries.group("mim", "reid_jax/ops/patch_statistics.py", "tests/models/test_masked_autoencoder.py")
patches = entries.group(
    "mim",
    "reid_jax/losses/masked_patches.py",
    "tests/losses/test_masked_patches.py",
    "tests/models/test_masked_autoencoder.py",
)
align = entries.group("mim", "reid_jax/losses/alignment.py", "tests/losses/test_alignment.py")
fills = entries.group("mim", "reid_jax/evaluation/image_regions.py", "tests/evaluation/test_frozen_probes.py")
probes = entries.group("mim", "reid_jax/evaluation/frozen_probes.py", "tests/evaluation/test_frozen_probes.py")
crops = entries.group(
    "mim", "reid_jax/data/pretraining_transforms.py", "tests/data/test_pretraining_transforms.py", level="generic"
)
pool = entries.group("mim", "reid_jax/data/pool.py", "tests/data/test_pool.py", level="generic")
hashes = entries.group("mim", "reid_jax/data/difference_hash.py", "tests/data/test_pool.py", level="generic")
recipe = entries.group("mim", "configs/mim.py", "tests/recipes/test_recipes.py", level="config")

MUTANTS = (
    # ---- masks
    masks("rank >= visible)", "rank < visible)", "masks: visible and hidden exchanged"),
    masks("jnp.sort(order[:, :visible], axis=-1)", "order[:, :visible]", "masks: visible tokens in the order drawn"),
    masks("(1.0 - self.ratio) + 1e-6)", "(1.0 - self.ratio))", "masks: a ratio of .9 rounds one token away"),
    masks("jax.random.fold_in(key, draw_number)", "jax.random.fold_in(key, 0)", "masks: both views have the same"),
    masks("own = jnp.where(chosen, (PART_LEVEL - place)", "own = jnp.where(chosen, (place - PART_LEVEL)",
          "masks: parts are hidden last"),
    masks("gain = height * width - 2 * inside", "gain = height * width - inside", "blocks: tokens covered count once"),
    masks("accepted = fits & (remaining > 0)", "accepted = (remaining > 0)", "blocks: boxes of any size"),
    masks("number = jnp.floor(chance * (most + 1))", "number = jnp.floor(chance * (parts + 1))",
          "parts: the released code's bound does not decay"),
    masks("rank < jnp.floor(shares * size)[:, None]", "rank < size[:, None]", "parts: whole ones are hidden"),
    masks("blocks = jnp.where(covered, float(BLOCK_LEVEL), 0.0)", "blocks = jnp.where(covered, 0.0, 0.0)",
          "masks: blocks are chance"),
    # ---- network
    network("if number == 0 else tokens", "if number == 1 else tokens", "hidden patches pass the first block"),
    network("jnp.cumsum(~mask, axis=1) - 1", "jnp.cumsum(~mask, axis=1)", "visible tokens put back one place off"),
    network("jnp.where(mask[..., None], empty,", "jnp.where(~mask[..., None], empty,",
            "mask tokens where tokens are visible"),
    network("jax.lax.stop_gradient(x)", "x", "the statistics train the network"),
    network('x = vit.layer_norm("decoder_norm", self.dtype)(x)[:, 1:]',
            'x = vit.layer_norm("decoder_norm", self.dtype)(x)[:, :-1]', "the class token draws the first patch"),
    codes("for place in (x, y)", "for place in (y, x)", "position codes: rows before columns"),
    # ---- losses
    statistics("scale = jnp.log(jnp.std(patches, axis=-1) + SCALE_OFFSET)", "scale = jnp.std(patches, axis=-1)",
            "statistics: the scale without its logarithm"),
    patches("(patches - mean) / jnp.sqrt(variance + 1e-6)", "(patches - mean) / (variance + 1e-6)",
            "targets are divided by their variance"),
    patches("return patches * scale + statistics[..., :1]", "return patches * scale",
            "drawings without their mean"),
    align("total + 2 * temperature *", "total + temperature *", "alignment: half its weight"),
    align("jax.lax.stop_gradient(key).T", "key.T", "alignment: a gradient through the key"),
    align("in (views, views[::-1])", "in (views, views)", "alignment: one direction twice"),
    align("& ~jnp.eye(len(tracks), dtype=bool)", "& jnp.eye(len(tracks), dtype=bool)",
          "alignment: an image is its own negative"),
    statistics(
        "seen = jnp.where(mask[..., None], 0.0, statistics.astype(jnp.float32))",
        "seen = statistics.astype(jnp.float32)",
        "the scale of hidden patches is read",
    ),
    # ---- what drawings and features are compared with
    fills("offset = np.sum((true - base) * visible, axis=(1, 2))", "offset = np.sum(true - base, axis=(1, 2))",
          "the camera's fill reads hidden pixels"),
    fills('mode="edge")', 'mode="wrap")', "the smooth fill reads the other side of the image"),
    fills("for half in halves * SWEEPS", "for half in halves[:1] * SWEEPS",
          "the smooth fill solves half of the pixels"),
    probes("values[cameras == camera].mean(axis=0)", "values.mean(axis=0)", "one mean for all cameras"),
    # ---- data
    crops("changed[name] = np.ascontiguousarray(element[name][top:bottom, left:right])",
          "changed[name] = element[name]", "maps are not cropped with their image"),
    pool("difference_hash.near(hashes, np.asarray(pool.hashes), LEAK_BITS)",
         "difference_hash.near(hashes, np.asarray(pool.hashes), 0)", "the leak check misses copies compressed anew"),
    hashes("edges = np.linspace(0, BITS, bits + 2)", "edges = np.linspace(0, BITS, bits + 1)",
           "pairs of hashes that agree in no band are missed"),
    # ---- recipe
    recipe('"normalize": True},\n        "second"', '"normalize": False},\n        "second"', "the main target is raw"),
    recipe('"part_share": (0.0, 0.3)', '"part_share": (0.0, 0.5)', "HAP's share of a part"),
    recipe('"b2": 0.95', '"b2": 0.999', "AdamW's second moment"),
    recipe('"weight": 0.05, "temperature": 0.2},\n        # Learns', '"weight": 0.5, "temperature": 0.2},\n        # Learns',
           "alignment at ten times its weight"),
)  # fmt: skip
