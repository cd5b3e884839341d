"""Networks: the all-convolutional network that every defense trains, and augmentation.

Which question it answers: what does a batch of images go through?

    allconv.py  AllConv, and predictions in batches
    augment.py  shifts, flips and color changes on the device
"""
