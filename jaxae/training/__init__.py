"""Training: the compiled step and epoch, whole runs, data in pieces, several devices.

Who calls whom, from :func:`jaxae.fit` to the compiled step::

    runs        fit, fit_many: check the arguments
                  |
    many          |  several models: stacked under vmap, or each by itself in a thread
                  |
    _drive      train_group: a loop on the host, each turn about a second
                  |  1. takes the window that holds the next blocks      <- _job, _windows
                  |  2. calls the program, and waits for it
                  |  3. reports the mean losses of the epochs            -> on_epoch
                  |  4. looks for losses that are not finite             <- _nonfinite
                  |  5. decides whether to stop                          <- should_stop, _processes
                  |  6. hands over a snapshot if one is due              -> _resume -> save
                  |
    ==============|== the host above this line, one compiled program below it =================
                  |
    programs    Run.train_blocks: a loop over epochs, of which the first and last may be parts
                  |
    epoch       Epoch.train_blocks: a shuffle, and a loop over blocks of one step or two
                  |
    steps       train_step: the gradient of the mean loss, and the optimiser's update

``make_run`` makes the ``Run``. What lies beside this line:

* Where a model begins: ``runs`` and ``many`` ask ``_resume``, which restores a snapshot and
  refuses one of another run. ``snapshots`` says what a snapshot is, and what a user's
  ``Checkpoints`` must do.
* Data: ``_data`` says what a data set is. One in memory is a window that never ends
  (``_job.InMemoryData``); one of ``streams`` is read by ``_windows``, a window ahead, in a thread
  that has the JAX settings of its caller (``_contexts``).
* Several devices: ``sharding`` divides each batch over them and copies everything else.
* Several processes run the same loop side by side. All that they tell each other is in
  ``_processes``: the snapshot to begin with, whether to stop, and how many blocks come next.
* ``evaluation`` takes means of a metric over data, and is no part of a run.

Everything random is a function of (key, epoch, step), computed in ``epoch``. So what is above the
double line decides when something is computed, and never what: the length of a call, threads,
streams and interrupts change no bit of a result. Only vmap does, in the last bits: a batch of
products may be summed in another order than each product by itself.
"""
