"""Weights and tokenizers of other projects, in both directions.

    source.py     a published model on disk: config.json, tensors, pooling          readers/   files of tensors
    reading.py    from there to a model of ours                                     hub.py     models by name
    writing.py    from a model of ours to a published folder                        card.py    its README.md
    export.py     the same to its end: written, read back, compared, or nothing     parity.py  the report
    family.py     what a family of models is; fields.py and table.py are its two tables
    families/     one file a family, one line in the registry

Both directions go through the same two tables, so they cannot disagree, and `model.Model` stands between them: a
config, the shapes of all parameters by path, and a function that reads one. Nothing holds a whole model at once.

To add a family, say of model_type `newbert`:

1.  Look at its config class and at the names of its tensors: `model.state_dict()` of every class that has a head.
2.  Write `families/newbert.py` with one `Family`, most easily by changing what BERT's file exports:
    -   `fields`: a `Field(theirs, ours, their default)` for every setting that both have, with functions in both
        directions where the values differ; `Only(theirs, value)` where the model here computes but one value; `fixed`
        for settings of ours that all its models have; `load` and `dump` for what no single field can say, such as
        `attention=Window(...)` or `position=Rope(...)`. Nothing has to be refused by hand: a config that does not
        come back as it was is refused by `writing.check_same`.
    -   `rows`: `Row(our path, their name, transform)` for every parameter; `linear`, `norm` and `attention` make the
        usual ones. `{layer}` is the path of a layer in our stack and `{i}` its number in their names. Names of the
        encoder are written as they are in its `Model` class; `base` is put before them where there is a head. Rows
        whose parameters a model has not are skipped, so one table serves all settings; a parameter without a row is
        an error. Transforms are pairs of functions in `table.py`; a new one must have an exact inverse.
        `when` tells where a parameter of ours is one of several of theirs.
    -   `copies`: names under which tied weights are stored again. `ignored`: buffers. `renamed`: older names.
        `constants`: tensors that are the same in all models.
    -   `architectures`: each class, its heads, whether it has a pooler. `forms`: how each head that is not of
        pretraining is made (`classify_form(...)` with the settings of models/task_heads.py that all have, and the
        `Field`s of those that its config.json names). `inputs`: what its classes must be given beside tokens and mask.
        `writes`: it has a decoder, whose rows are `heads_translate/...` (encoder_decoder.py, two BERTs in one).
3.  Add a line to the registry, and a config.json with unusual sizes to `tests/convert/models.py`. The tests then hold
    every class of it against PyTorch (`tests/parity/test_families.py`: hidden states, logits, the way back) and
    against itself (`tests/convert/test_roundtrip.py`). What the model lacks is added to its component, with a field.

MobileBERT does not fit: its layers have bottlenecks around the attention and several feed-forward parts.
"""
