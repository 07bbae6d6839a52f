# SPDX-License-Identifier: Apache-2.0
"""The suite itself: it judges one cell, through a program it starts or an address it is given. See ../README.md.

    cell        what is judged, as plain data           kit, wire   for authors of adapters: the loop, the tensors
    adapter     the program under test, as a process    http, rpc   the Open Inference Protocol's two transports
    cases       seeded inputs                           vectors     inputs and reference outputs on disk
    judge       is an answer right?                     plugin      pytest: fixtures, order, the result file
    test_l0 … test_l5                                   the laws, one file per level

It runs on Python and numpy, `grpcio` where an endpoint speaks gRPC, and imports nothing of the program it belongs to.
`kit`, `wire`, `contract` and `servers` also run inside the environments under test, on Python 3.8 and numpy 1.21.
"""
