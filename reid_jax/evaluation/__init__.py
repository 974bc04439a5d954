"""Metrics computed from features.

`suite` computes the whole evaluation report, `ranking` CMC, mAP and mINP (with the rule for ties), `reranking`
k-reciprocal re-ranking, `verification` ROC and EER, and `robustness` scores under corruptions.
"""
