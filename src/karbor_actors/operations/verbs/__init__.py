"""The five operations: what each plans, opens and concludes around its hooks."""

from __future__ import annotations
