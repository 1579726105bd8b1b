"""Videos, images and masks in and out of files, and their way to the model's size and back."""
