"""Pictures of what a model looks at, for every model.

| picture | module |
|---|---|
| activation, attention of the class token, rollout, attention of slots, part masks, reconstruction | `pictures` |
| which regions of two images make them similar: maps whose sum is the similarity | `similarity_maps` |
| the same by hiding regions one after the other, slow and without assumptions | `occlusion` |
| whether a map means anything: deletion and insertion against a random order | `deletion` |
| colors, scales and text; sheets of a query and its matches | `drawing`, `sheets` |
| all embeddings on a plane | `embedding_map` |

A picture is a float32 map on the model's grid with a stated range; drawing is separate. It explains a score, and is no
evidence of identity.
"""

# Kept here, where commands find them before JAX is loaded.
# Pictures of two images; "contrast" needs a gallery as well.
PAIRS = ("similarity", "contrast", "occlusion")
PICTURES = ("activation", "attention", "heads", "rollout", "slots", "parts", "reconstruction", *PAIRS)
COLORS = ("viridis", "magma", "jet")
CAUTION = "Explains the score of a model; not evidence of identity."
