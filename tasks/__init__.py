"""What is learned: batches, losses and metrics of each experiment.

A task has, for the training loop and the networks,

    metric, constant_answer     the metric that selects; what the best constant answer is called
    n_features, n_classes       columns of the input, and of the logits
    targets_spec                tf.TensorSpec of a batch's targets
    dataset                     what the task was made of
    checksum, note              of the data; what has to stand beside errors on them
    description()               what inference needs to know of the data, for JSON
    n_training_batches(size), training_batches(size, random_generator), batches(split, size)
                                batches are tuples (features, targets, seq_len) with `names`
    losses(logits, targets, seq_len), answers(logits, seq_len)          in TensorFlow
    sums(batch, answers), metrics(sums, n_examples), constant_error()   in NumPy
    names                       of the metrics that evaluations on develop record
    for_the_end()               the task, or one of the same data for the selected weights, whose
                                read_develop(evaluation on develop) comes before the test set
    draw_results(folder, test), draw_example(folder, network)           figures
"""
