"""Evaluation: from embeddings to CMC, mAP, mINP, re-ranking, verification and robustness.

Where to find what:

| question | module |
|---|---|
| the rules: **ties**, junk, distractors, same-camera filter, AP | `ranking`, whose docstring states them |
| one report with everything a protocol asks for, `result.json` keys, the printed table | `suite` |
| distances in blocks: Euclidean, cosine, slots with visibility | `distance_blocks` |
| a distance function of one's own (`evals.metric = "my_project.distances:angular"`) | `own_metrics` |
| scores of one's own (`evals.scores`, `evaluate.py --score`) | `own_scores` |
| which gallery images are correct for a query, which are left out | `candidates` |
| counting the gallery images before each correct one, on the device | `counting` |
| k-reciprocal re-ranking; its sparse matrices | `reranking`, `sparse` |
| query expansion | `expansion` |
| single-gallery-shot (CUHK03) and repeated random galleries | `protocols` |
| verification: ROC, AUC, EER, thresholds | `verification` |
| corrupted queries and galleries; published reference scores | `robustness`, `published_robustness` |
| the page of ranked lists; its charts; images for it from a folder | `report`, `charts`, `image_files` |
| PSNR of reconstructed patches, and a sheet of them | `image_quality` |

This room computes on arrays and files of features; it knows no model.
"""
