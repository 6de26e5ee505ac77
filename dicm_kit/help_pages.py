"""The help pages of the commands: what `dicm COMMAND --help` prints and docs/reference/command_line.md shows."""

OVERVIEW = """dicm {version}: click-through-rate models that look at pictures

Usage: dicm COMMAND [ARGUMENTS]

{commands}

Every command takes --help, and --traceback to see where an error comes from.
Exit codes: 0 done, 1 the run failed, 2 the recipe or the command line is wrong.

Examples:
  lightning run recipes/quickstart/dicm.yaml     the same as dicm run
  dicm run recipes/quickstart/dicm.yaml trainer.max_epochs=2
  dicm explain interest_aggregator multi_query_attention

Next: dicm check recipes/quickstart/dicm.yaml
"""
"""Of `dicm --help`."""

REFERENCE_HEAD = """# The command line

The pages that `dicm COMMAND --help` prints, made from the code; a test keeps this page current.

`lightning run RECIPE ...` is `dicm run RECIPE ...`. Every other call of `lightning` is handed to lightning-sdk where
that is installed. Several packages bring a command of that name, and the last one installed owns it: `dicm plugins`
says when it is not ours, and `dicm run` always works.
"""
"""What stands above the pages in the reference."""

PAGES = {
    "run": (
        "prepare and extract what is missing, train, test, report",
        """
Usage: dicm run RECIPE [KEY=VALUE ...] [--resume | --overwrite]

Prepares the dataset and extracts picture vectors where they are missing, trains, tests, makes a report to look at
(report.html), and writes everything into the recipe's run_dir. `lightning run RECIPE ...` is the same.

  RECIPE       a YAML file, or its name below recipes/
  KEY=VALUE    overrides any key of the recipe
  --resume     go on from the last checkpoint in run_dir
  --overwrite  delete run_dir and start again
  --traceback  show where an error comes from

Examples:
  dicm run recipes/quickstart/dicm.yaml
  dicm run recipes/quickstart/dicm.yaml trainer.max_steps=100 interest.images.name=sum
  dicm run recipes/quickstart/dicm.yaml --resume

Next: dicm report RUN_DIR --against BASELINE_RUN
""",
    ),
    "check": (
        "say what a recipe will do, or what is wrong with it; also for plugins and dataset folders",
        """
Usage: dicm check RECIPE|COMPARISON [KEY=VALUE ...]
       dicm check PLUGIN [KEY=VALUE ...] [--timeout S]
       dicm check DATASET

Of a recipe: reports what is wrong with it, or says in a few lines what running it will do, and what memory each rank
will take; a recipe that cannot fit is a problem (docs/how_to/memory.md). Nothing is written.
Of a comparison file: the same, for each of its rows.
Of a plugin, a file or the name of an installed one: runs the checks of dicm_kit.testing on each of its components,
two of them on two ranks, and shows what fails in full (docs/plugins/contracts.md). `dicm_kit` are our own.
Of a dataset folder, whoever wrote it: audits it. Says what it holds, looks for errors of format and for leakage, and
warns of what matters (docs/reference/audit.md).

The exit code is 1 when something of a plugin or a dataset folder must be mended.

  KEY=VALUE    overrides any key of the recipe; of a plugin, keys of its components
  --timeout S  seconds that a plugin's import, and all checks of one component, may take; default 60
  --traceback  show where an error comes from

Examples:
  dicm check recipes/quickstart/dicm.yaml trainer.devices=2
  dicm check ./my_aggregator.py
  dicm check dicm-movielens root=/data/ml-1m
  dicm check data/quickstart

Next: dicm run RECIPE
""",
    ),
    "ls": (
        "list components",
        """
Usage: dicm ls [KIND]

Lists the components that a recipe can choose by `name:`, those of installed plugins too.

  KIND         feature_encoder, image_backbone, interest_aggregator, base_net or data_source
  --traceback  show where an error comes from

Examples:
  dicm ls
  dicm ls interest_aggregator

Next: dicm explain KIND NAME
""",
    ),
    "explain": (
        "explain a component, a plugin's components or a section of the recipe, key by key",
        """
Usage: dicm explain KIND NAME
       dicm explain PLUGIN
       dicm explain SECTION

Explains a component, each component of a plugin, or a section of the recipe: each key with its type, its default and
what it does.

  KIND         feature_encoder, image_backbone, interest_aggregator, base_net or data_source
  NAME         the component's name; `dicm ls KIND` lists them
  PLUGIN       a plugin's file, or the name of an installed one
  SECTION      recipe (the whole), or a section such as trainer or optimizer.ids
  --traceback  show where an error comes from

Examples:
  dicm explain interest_aggregator multi_query_attention
  dicm explain ./my_aggregator.py
  dicm explain trainer

Next: dicm cp RECIPE FILE
""",
    ),
    "cp": (
        "copy a recipe to change it",
        """
Usage: dicm cp RECIPE FILE [--force]

Copies a recipe, comments and all. Plugin files it lists are still found: their paths are rewritten.

  RECIPE       a YAML file, or its name below recipes/
  FILE         the copy, or a folder for it
  --force      write over an existing file
  --traceback  show where an error comes from

Examples:
  dicm cp recipes/quickstart/dicm.yaml my_recipe.yaml

Next: dicm check FILE
""",
    ),
    "plugins": (
        "list installed plugins",
        """
Usage: dicm plugins

Lists the installed plugins with what they provide, and what is wrong with those that do not load.

  --traceback  show where an error comes from

Examples:
  dicm plugins
  DICM_TRACE_PLUGINS=1 dicm check RECIPE    says what is loaded from where

Next: dicm ls
""",
    ),
    "new": (
        "write a plugin to start from: code, tests, recipe, comparison",
        """
Usage: dicm new plugin NAME --kind KIND [--name COMPONENT] [--out DIR]

Writes a plugin with one small component that works as it is: an installable distribution with the module, its tests, a
recipe that trains with it, and a comparison with what dicm_kit has. Put your own formula in the place of the small one;
comments in the module say where. A guide: docs/plugins/writing_a_plugin.md.

  NAME         the distribution's name, such as dicm-my-interest; its module is then dicm_my_interest
  --kind KIND  aggregator   a user's clicks -> one vector            (here: a weighted mean, gated and by age)
               encoder      values of a column -> vectors            (a number as a piecewise linear curve)
               backbone     a picture -> a vector                    (its colours, cell by cell)
               base_net     all vectors -> the logit of a click      (cross layers)
               data_source  logs and pictures -> streams             (a folder with two CSV files and pictures)
  --name NAME  what recipes call the component; default: after the distribution, my_interest
  --out DIR    the folder to write; default: ./NAME. It must be new or empty
  --traceback  show where an error comes from

Examples:
  dicm new plugin dicm-my-interest --kind aggregator
  dicm new plugin dicm-my-shop --kind data_source --name shop_export --out plugins/my_shop

Next: dicm check ./MODULE.py
""",
    ),
    "prepare": (
        "make the dataset folder of a recipe",
        """
Usage: dicm prepare RECIPE [KEY=VALUE ...]

Makes the dataset folder (data.out) that the recipe trains on. It goes on where it was interrupted, adds days that are
new, and does nothing when all is there already. `dicm run` does this by itself. It ends with an audit, which is kept in
audit.txt in the folder: what is in it, leakage, warnings (docs/reference/audit.md).

  RECIPE       a YAML file, or its name below recipes/
  KEY=VALUE    overrides any key of the recipe
  --traceback  show where an error comes from

Examples:
  dicm prepare recipes/quickstart/dicm.yaml
  dicm prepare recipes/quickstart/dicm.yaml data.out=/scratch/shop

Next: dicm extract RECIPE
""",
    ),
    "extract": (
        "compute the picture vectors of a recipe's frozen backbone",
        """
Usage: dicm extract RECIPE [KEY=VALUE ...]

Runs the recipe's frozen backbone over every picture that an item of the dataset has, once, and keeps the vectors
there. When pictures are added, only those are computed; it says how many, and how many vectors it took over. It goes on
where it was interrupted. `dicm run` does this by itself.

  RECIPE       a YAML file, or its name below recipes/
  KEY=VALUE    overrides any key of the recipe
  --traceback  show where an error comes from

Examples:
  dicm extract recipes/quickstart/dicm.yaml

Next: dicm run RECIPE
""",
    ),
    "test": (
        "test a trained run again, or compare it with others",
        """
Usage: dicm test RUN_DIR [RUN_DIR ...] [--against RUN_DIR [RUN_DIR ...]]

Tests the best checkpoint of each run on the test split, prints the table and writes test.json,
test_predictions.parquet and report.html into the run folder.

With --against, prints the difference of every metric to another run, with 95 % intervals over users, and writes it to
against-OTHER.json in the first run folder. Nothing is trained or tested: the predictions of both are all it needs.

  RUN_DIR      the run folder of a training
  --against    the runs to compare with; on both sides a folder may also hold seed-* runs, as `dicm compare` makes
               them: seeds are then compared in pairs
  --traceback  show where an error comes from

Examples:
  dicm test runs/quickstart
  dicm test runs/dicm --against runs/baseline
  dicm test runs/dicm/seed-7 runs/dicm/seed-8 --against runs/baseline/seed-7 runs/baseline/seed-8

Next: dicm compare RECIPE RECIPE
""",
    ),
    "report": (
        "make the page that shows what a run is worth",
        """
Usage: dicm report RUN_DIR [--against RUN_DIR]

Writes report.html into the folder of a finished run: one file to look at in any browser, on a phone too, that loads
nothing from anywhere. It has the gain over another run, training curves, calibration, slices, what deduplication
saved, and single impressions with their pictures and the attention that each one got (docs/reference/report.md).
`dicm run` and `dicm test` end with it. Nothing is trained or tested here; where the dataset is gone, the page has no
pictures.

  RUN_DIR      the run folder of a training that was tested
  --against    the run that it is compared with, the id-only baseline say; tested on the same impressions
  --traceback  show where an error comes from

Examples:
  dicm report runs/quickstart
  dicm report runs/dicm --against runs/baseline

Next: dicm test RUN_DIR --against RUN_DIR
""",
    ),
    "compare": (
        "run several recipes and put their results into one table",
        """
Usage: dicm compare RECIPE [RECIPE ...] [--seeds N] [--out FOLDER] [--markdown FILE] [KEY=VALUE ...]
       dicm compare COMPARISON          [--seeds N] [--out FOLDER] [--markdown FILE] [KEY=VALUE ...]

Runs the recipes, or the rows of a comparison file, one after the other, each with N seeds, and prints one table of
their test results, with the differences to the first. Runs that are done already are not done again; one that was
cut off goes on.

  RECIPE           a YAML file, or its name below recipes/
  COMPARISON       a YAML file with rows of overrides (docs/reference/comparison.md), or its name below recipes/
  KEY=VALUE        overrides any key, in every row
  base=RECIPE      puts another recipe in the place of the comparison's `base`
  --seeds N        runs of each row, with seeds seed, seed + 1, ...; default 1
  --out FOLDER     writes table.md, table.csv and table.png, too
  --markdown FILE  writes the table as Markdown, too
  --traceback      show where an error comes from

Examples:
  dicm compare recipes/quickstart/dicm.yaml recipes/quickstart/baseline.yaml
  dicm compare recipes/paper/table3.yaml --seeds 5 --out table3
  dicm compare recipes/quickstart/dicm.yaml recipes/quickstart/baseline.yaml --seeds 3 trainer.max_epochs=2
  dicm compare recipes/quickstart/compare.yaml --seeds 3 --markdown table.md

Next: dicm test RUN_DIR --against RUN_DIR
""",
    ),
    "bench": (
        "measure where the time of a recipe's training step goes",
        """
Usage: dicm bench RECIPE [KEY=VALUE ...] [--steps N]

Prepares and extracts what is missing, trains N steps on the recipe's own data and prints where their time goes, in
milliseconds and shares; the impressions per second of the whole step; and the floor of the picture part: what its
matrix products and its copies take at the rates measured on this machine. Nothing is estimated and no run is written;
validation, checkpoints and log are left out. How to read it: docs/how_to/find_slow_steps.md.

  RECIPE       a YAML file, or its name below recipes/
  KEY=VALUE    overrides any key of the recipe
  --steps N    steps to measure, at least 8, after 10 that warm up; default 100
  --traceback  show where an error comes from

Examples:
  dicm bench recipes/quickstart/dicm.yaml
  dicm bench recipes/quickstart/dicm.yaml trainer.precision=bf16-mixed data.workers=2
  dicm bench recipes/debug.yaml trainer.devices=2 trainer.strategy=image_server --steps 40

Next: dicm run RECIPE
""",
    ),
}
"""Command -> (what it does, in a line; its page), in the order of the overview."""
