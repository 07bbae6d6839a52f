# SPDX-License-Identifier: Apache-2.0
"""Answer the Open Inference Protocol v2 over HTTP and gRPC for one installed model.

The package is copied beside an installed bundle and run there by the installation's own interpreter, so it imports
the standard library, numpy, orjson, granian, prometheus_client, grpcio (where gRPC is asked for), uvloop (where it is
installed) and itself, nothing else of packager. A runtime is reached only through the `Session` protocol of
`packager.server.execution.session`, looked up by the name in the configuration.

One request, in reading order of the modules:

    __main__   arguments, configuration, exit code          config     the file that `packager install` wrote
    serve      listen, load, drain, stop                    interface  what the model promises about its tensors
    app        path, method, limits, bytes in               tensors    bytes or JSON <-> one numpy array
    rpc        the same over gRPC                           messages   gRPC's bytes <-> feeds and results (no I/O)
    protocol   bytes -> feeds, results -> bytes (no I/O)    model      runtime look-up, warm-up, where to run
    heads      documents that were seen before              turns      short runs that share a turn of the event loop
    drift      values that the contract does not expect     pages      huge pages behind the model's weights
    metrics    what Prometheus reads                        logs       one JSON line per event on stderr
    ending     SIGTERM without a lost request               allowance  processors and memory of this process
    services   gRPC's health and reflection                 proxies    prefixes, forwarded headers, CORS

The law of the whole: a request is either answered with the bytes the runtime produced, or refused with one sentence
that names what is wrong. Nothing is rounded, clipped, reshaped, padded or guessed on the way.
"""
