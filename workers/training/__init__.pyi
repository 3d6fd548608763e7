from .evaluation import mean_loss as mean_loss
from .first_order import FUSED as FUSED, check_optimizer as check_optimizer, optimizer_class as optimizer_class
from .init_file import check_init_file as check_init_file
from .layer_rates import first_standstill as first_standstill, later_phases as later_phases
from .metrics import read_step as read_step
from .optimizer import build_optimizer as build_optimizer
from .pretrained import find_pretrained as find_pretrained
from .schedule import warm_up_updates as warm_up_updates
from .stage import run_stage as run_stage, warm_up as warm_up
