"""Settings: typed fields declared once, the registry of sections, and the command line's grammar."""

from qsr.hparams.base import ConfigError as ConfigError
from qsr.hparams.base import Hparam as Hparam
from qsr.hparams.base import Hparams as Hparams
from qsr.hparams.base import MissingKeyError as MissingKeyError
from qsr.hparams.base import nearest as nearest
from qsr.hparams.base import type_name as type_name
from qsr.hparams.blueprint import blueprint as blueprint
from qsr.hparams.grammar import parse_scan as parse_scan
from qsr.hparams.grammar import parse_sections as parse_sections
from qsr.hparams.imports import allow_import as allow_import
from qsr.hparams.imports import imports_allowed as imports_allowed
from qsr.hparams.presets import PRESETS as PRESETS
from qsr.hparams.registry import Section as Section
from qsr.hparams.registry import find_section as find_section
from qsr.hparams.registry import hparams_class as hparams_class
from qsr.hparams.registry import register_optimizer as register_optimizer
from qsr.hparams.registry import register_section as register_section
from qsr.hparams.registry import sections as sections
from qsr.hparams.run import SCHEMA_VERSION as SCHEMA_VERSION
from qsr.hparams.run import RunSettings as RunSettings
from qsr.hparams.sweeps import ConfigHandler as ConfigHandler
from qsr.hparams.sweeps import range_inclusive as range_inclusive
from qsr.hparams.tags import ConfigLoader as ConfigLoader
from qsr.hparams.tags import convert_to_pyobject_tags as convert_to_pyobject_tags
from qsr.hparams.tags import dump_yaml as dump_yaml
from qsr.hparams.tags import load_yaml as load_yaml
