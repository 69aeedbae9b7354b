"""The networks that the report compares SegFormer with, each a `PreTrainedModel` with a `model_type` of its own."""
