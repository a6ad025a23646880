"""The actor runtime: Pykka actors without threads of their own, and what runs them."""

from karbor_actors.actors.confined import ConfinedActor, start_all, tell_all
from karbor_actors.actors.dispatcher import Dispatcher, current_dispatcher
from karbor_actors.actors.executor import DaemonExecutor
from karbor_actors.actors.lending import Lender
from karbor_actors.actors.messages import Message, ask
from karbor_actors.actors.pooled import (
    LightActor,
    PooledActor,
    default_dispatcher,
    set_default_dispatcher,
)
from karbor_actors.actors.simulated import SimulatedDispatcher
from karbor_actors.actors.threads import ThreadDispatcher
from karbor_actors.actors.timers import Timer

__all__ = [
    "ConfinedActor",
    "DaemonExecutor",
    "Dispatcher",
    "Lender",
    "LightActor",
    "Message",
    "PooledActor",
    "SimulatedDispatcher",
    "ThreadDispatcher",
    "Timer",
    "ask",
    "current_dispatcher",
    "default_dispatcher",
    "set_default_dispatcher",
    "start_all",
    "tell_all",
]
