"""Models of one's own: made anywhere, asked here about images as they want them.

Which question it answers: how does a model that Sparring did not train answer?

    form.py        what its user declares of it, and what is wrong with the answers it gives
    reference.py   what names one on the command line, as model.py:build
    net.py         what every kind of model looks like from here on
    function.py    functions, of numpy arrays or of tensors
    torch_net.py   modules of PyTorch
    keras_net.py   models of Keras, and its files
    onnx_net.py    ONNX files, which give answers alone
    program.py     files of torch.export, looked through before they are loaded
    adapted.py     from a model or what names it to one of these

Nothing pickled is loaded. `sparring.defenses.model` makes a defense of them.
"""
