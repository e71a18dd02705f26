"""`--init`: from which weights the first layer of an LSNN starts."""

from layers import neurons
from lmu import flags as lmu_flags
from lmu import seeding
from toolbox.command_line import UserError, check_unread

SEEDED = ("lmu", "lmu_shuffled")


def define_flags(define):
    """Define `--init` and the LMU's flags; `define` is a command_line.Definer."""
    define.path(
        "init",
        "random",
        "start of the first layer: random; lmu (Legendre Memory Unit, see the LMU flags); "
        "lmu_shuffled (its control at the same rate: who sends which recurrent weights is permuted); or a "
        "file of lmu_init.py",
    )
    lmu_flags.define_flags(define)


def check_flags(flag_values):
    """Raise UserError for a start that there is not, or that does not go with other flags."""
    init = flag_values.init
    if init in SEEDED:
        lmu_flags.check_flags(flag_values)
    else:
        check_unread(flag_values, lmu_flags.LMU_FLAGS, f"--init={' or '.join(SEEDED)}")
        if init != "random" and not init.endswith(".npz"):
            raise UserError(
                f"--init={init}: expected random, {', '.join(SEEDED)}, or an .npz file of "
                "lmu_init.py"
            )
    if init == "random":
        return
    if flag_values.tau_v_spread:
        raise UserError(
            f"--tau_v_spread with --init={init}: the membrane's time constant is that of the "
            "memory's loop; leave out one of the two"
        )
    if not flag_values.rec:
        raise UserError(
            f"--norec with --init={init}: the memory is in the recurrent weights; leave out one of "
            "the two"
        )


def first_layer(flag_values, dataset, parameters, weight_scale, random_generator):
    """The weights that `--init` names.

    Args:
        flag_values: `init`, the LMU's, the neurons', `n_directions` and `preproc` are read.
        dataset: TimitDataset.
        parameters: AlifParameters.
        weight_scale: of the weights of neurons that are not in the LMU.
        random_generator: np.random.Generator.

    Returns:
        (w_in [directions, features, n], w_rec [directions, n, n]); None for a random start.

    Raises:
        UserError: a file of another layer, or settings that cannot work with this speech.
    """
    if flag_values.init == "random":
        return None
    if flag_values.init not in SEEDED:
        return _layer_of_file(flag_values, dataset.n_features)
    layer = seeding.seed_layer(
        dataset.train.features,
        parameters,
        flag_values.n_regular,
        lmu_flags.settings_from_flags(flag_values, dataset.n_static),
        random_generator,
        n_directions=flag_values.n_directions,
        weight_scale=weight_scale,
    )
    if flag_values.init == "lmu":
        return layer.w_in, layer.w_rec
    return seeding.shuffled_control(layer, parameters, dataset.train.features, random_generator)


def _layer_of_file(flag_values, n_features):
    path = flag_values.init
    n_neurons = flag_values.n_regular + flag_values.n_adaptive
    layer, settings = seeding.load_seed(path, n_features, n_neurons, flag_values.n_directions)
    for name in ("preproc", *neurons.FLAGS):
        value = getattr(flag_values, name)
        if settings.get(name, value) != value:
            raise UserError(
                f"--init: {path} was made with --{name}={settings[name]}, expected {value}, that of "
                "this run: seed anew with lmu_init.py"
            )
    if settings.get("splits") != ["train"]:
        print(
            f"note: {path} was seeded on more speech than the training set: for results use "
            "--init=lmu, which reads that alone"
        )
    return layer.w_in, layer.w_rec
