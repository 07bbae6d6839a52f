# SPDX-License-Identifier: Apache-2.0
"""Answer the Open Inference Protocol v2 over HTTP and gRPC for one installed model.

The package is copied beside an installed bundle and run there by the installation's own interpreter, so it imports
the standard library, numpy, orjson, granian, prometheus_client, grpcio (for gRPC), uvloop (where it is installed),
tokenizers and Pillow (for pipelines) and itself, nothing else of packager. A runtime is reached only through the
`Session` protocol of `packager.server.execution.session`, looked up by the name in the configuration.

In reading order of a request:

    __main__    arguments, configuration, exit code         config      the file that `packager install` wrote
    knobs       the settings and their bounds               service     listen, load, drain, stop
    http/       routes, bodies, header cache, tokens        grpc/       the same over gRPC
    protocol/   bytes <-> feeds and results, without I/O    pipeline/   texts, images, rows -> feeds; results -> answers
    admission/  bounds on requests and their memory
    execution/  sessions, batching, worker processes        process/    supervisor, listeners, shutdown, host limits
    telemetry/  metrics, logs, traces, drift                errors      refused requests, failed starts

Law: a request with tensors is either answered with the bytes that the runtime produced, or refused with one sentence
that names what is wrong. Nothing is rounded, clipped, reshaped, padded or guessed in between. What raw inputs become is
said by the pipeline of the bundle.
"""
