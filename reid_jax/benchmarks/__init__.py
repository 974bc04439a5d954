"""Measurements of speed and memory, the work behind `reid-jax benchmark`.

| measured | module |
|---|---|
| train steps and inference of models and configs, compared with PyTorch | `model_speed` |
| what is timed there: a row of the zoo, or a config's own step | `subjects` |
| compiled programs, their time, FLOPs and memory | `programs` |
| the input pipeline, stage by stage; corruptions | `input_speed` |
| ranking, re-ranking, verification, the page of ranked lists at the size of benchmarks | `ranking_speed` |
| time and memory of a block of code | `measuring` |
| full-size programs for accelerators that are not there | `ahead`, `targets` |
| FLOPs by data type, collectives, copies of a program | `program_counts` |
| every stage of a run from 10,000 to 1,000,000 images | `growth` |
| from the start of a process to its first step | `start_speed` |
| everything, on a device at hand for minutes | `campaign`, `campaign_worker`, `campaign_parts`, `campaign_training` |
| operations of a trace by their share | `traces` |
| tables as text, JSON and markdown | `tables` |
| PyTorch counterparts of the backbones | `torch` |
"""
