"""Conversion: trained networks for use elsewhere, and the course's old checkpoints.

Which question it answers: how does a model leave Sparring, or come in, unchanged?

    convert.py       convert, which proves every conversion on 256 inputs
    staging.py       a folder that replaces another at once
    targets.py       PyTorch, Keras, ONNX
    tracing.py       what a defense changed in its network, as programs of PyTorch
    torch_model.py   a network in plain PyTorch
    torch_answer.py  a whole defense in plain PyTorch
    torch_module.py  a defense as a torch.nn.Module
    selfstudy.py     the course's checkpoints, read and written
"""
