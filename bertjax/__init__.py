"""bertjax: pretrain, fine-tune and take apart BERT-family encoders in JAX."""
