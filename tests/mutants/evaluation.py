"""Deliberate mistakes in the evaluation."""

from tests.mutants import entries


def _of(name, *tests):
    return entries.group(
        "evaluation", f"reid_jax/evaluation/{name}.py", *(f"tests/evaluation/{test}.py" for test in tests)
    )


ranking = _of("ranking", "test_ranking_twin", "test_ranking")
candidates = _of("candidates", "test_ranking_twin", "test_ranking")
reranking, blocks = (
    _of("reranking", "test_ranking_twin", "test_reranking"),
    _of("distance_blocks", "test_distance_blocks"),
)

MUTANTS = (
    ranking(
        "precision = (before + 1) / (rank + 1)",
        "precision = (before + 1) / (rank + 2)",
        "precision of one rank further",
    ),
    ranking(
        "precision = (precision + previous) / 2", "precision = previous", "trapezoid: precision before the hit alone"
    ),
    ranking(
        "before / np.maximum(rank, 1), 1.0)",
        "before / np.maximum(rank, 1), 0.0)",
        "trapezoid: 0 at the head of the list",
    ),
    ranking('if self._rule == "trapezoid":', 'if self._rule == "step":', "rules swapped"),
    ranking(
        "sum(axis=1) / np.maximum(number, 1))[found]",
        "sum(axis=1) / np.maximum(relevant.shape[1], 1))[found]",
        "AP over all candidates",
    ),
    ranking(
        "self._inp[rows] = (number / (last + 1))[found]",
        "self._inp[rows] = (1 / (last + 1))[found]",
        "INP without the number of matches",
    ),
    ranking(
        "np.maximum(number - 1, 0)[:, None], axis=1)[:, 0]\n        self._inp",
        "0 * number[:, None], axis=1)[:, 0]\n        self._inp",
        "INP of the first match",
    ),
    ranking("<= np.arange(max_rank)", "< np.arange(max_rank)", "CMC one rank late"),
    ranking("self.cmc[min(number, len(self.cmc)) - 1]", "self.cmc[min(number, len(self.cmc) - 1)]", "rank k is k + 1"),
    ranking(
        "mAP=float(self._ap[valid].mean())",
        "mAP=float(np.nan_to_num(self._ap).mean())",
        "queries without a match count zero",
    ),
    ranking(
        'ap: str = "step",\n    same_camera_filter: bool = True,\n    drop_junk: bool = True',
        'ap: str = "step",\n    same_camera_filter: bool = False,\n    drop_junk: bool = True',
        "images of the query's camera are ranked",
    ),
    ranking(
        'ap: str = "step",\n    same_camera_filter: bool = True,\n    drop_junk: bool = True',
        'ap: str = "trapezoid",\n    same_camera_filter: bool = True,\n    drop_junk: bool = True',
        "trapezoid by default",
    ),
    ranking("if drop_junk:", "if not drop_junk:", "junk is ranked"),
    candidates(
        "(self.gallery_cams[index] == camera) & (camera",
        "(self.gallery_cams[index] != camera) & (camera",
        "other cameras are left out",
    ),
    candidates("& (camera != UNKNOWN_CAMERA)", "", "unknown cameras are one camera"),
    candidates("slot < self.size[chosen]", "slot <= self.size[chosen]", "one candidate too many"),
    reranking(
        "k1: int = 20,\n        k2: int = 6,\n        original_weight: float = 0.3",
        "k1: int = 30,\n        k2: int = 6,\n        original_weight: float = 0.3",
        "k1 30",
    ),
    reranking(
        "k1: int = 20,\n        k2: int = 6,\n        original_weight: float = 0.3",
        "k1: int = 20,\n        k2: int = 6,\n        original_weight: float = 0.7",
        "weight .7",
    ),
    reranking("rank = neighbors[:, : k1 + 1]", "rank = neighbors[:, :k1]", "one neighbor fewer"),
    reranking("int(np.around(k1 / 2)) + 1]", "int(k1 / 2)]", "half of the neighbors, one fewer"),
    reranking("overlap > 2 / 3 * half_size", "overlap > 1 / 2 * half_size", "overlap of a half suffices"),
    reranking("np.exp(-(distance / scale[owner])", "np.exp(-(distance)", "distances are not scaled"),
    reranking(
        "_average(encodings, neighbors[here, :k2]) if k2 > 1 else encodings.take(here)",
        "encodings.take(here)",
        "no local query expansion",
    ),
    blocks(
        "length = np.linalg.norm(part, axis=-1, keepdims=True)",
        "length = np.abs(part).sum(axis=-1, keepdims=True)",
        "length of the other norm",
    ),
)
