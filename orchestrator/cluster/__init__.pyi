from .interface import (
    Completed as Completed,
    Failure as Failure,
    Halted as Halted,
    Lost as Lost,
    Machine as Machine,
    Predicted as Predicted,
    Trained as Trained,
    Unfit as Unfit,
    Where as Where,
)
from .memory import memory_limit as memory_limit
from .preflight import SHARE as SHARE, Needs as Needs
from .ray_backend import (
    RayCluster as RayCluster,
    open_cluster as open_cluster,
)
from .ray_capacity import check_resources as check_resources, survey_nodes as survey_nodes
from .ray_machines import open_nodes as open_nodes
from .ray_nodes import idle_gpus as idle_gpus
from .ray_serving import serve_replicas as serve_replicas
from .ray_session import available_cpus as available_cpus, load as load
from .ray_shards import run_tasks as run_tasks, shard_runner as shard_runner
