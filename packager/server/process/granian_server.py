# SPDX-License-Identifier: Apache-2.0
"""Run granian on a socket that is already open; the only module that uses private members of granian.

`_init_shared_socket` opens the listening socket and leaves it in `_ssp` (its specification) and `_shd` (its holder),
which the workers get, with the descriptor in `_sfd`. tests/unit/test_private_members.py fails when one is gone.
"""

from __future__ import annotations

from granian.net import SocketHolder
from granian.server.embed import Server


class ListenerServer(Server):
    """granian's embedded server. With `listener`, the descriptor of a listening socket, it accepts there."""

    listener: int | None = None

    def _init_shared_socket(self) -> None:
        if self.listener is None:
            super()._init_shared_socket()
            return
        self._ssp = None
        self._shd = SocketHolder(self.listener, False, self.backlog)
        self._sfd = self._shd.get_fd()
