"""From result files to tables, figures and one page; imports no Keras."""
