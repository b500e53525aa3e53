#!/bin/sh
# Inside a builder stage: install one set of requirements, PyTorch, or the entry point of stlm into /opt/stlm.
# pip's report of what it installed, with the hashes of the archives, is left in /build/reports for the parts list.
set -eu

if [ -f /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi
mkdir -p /build/reports
install="/opt/stlm/bin/python -m pip install --quiet --no-compile --report /build/reports/$1.json"

case $1 in
torch)
	# A CPU build has no further packages; a CUDA build brings its libraries from the same index.
	if ls "$TORCH_WHEELS"/torch-*.whl >/dev/null 2>&1; then
		$install --no-deps --no-index --find-links "$TORCH_WHEELS" "$TORCH"
	else
		$install --index-url "$TORCH_INDEX" "$TORCH"
	fi
	;;
stlm)
	cat >/opt/stlm/bin/stlm <<-'END'
		#!/opt/stlm/bin/python
		from stlm_core.cli import main

		main()
	END
	chmod 755 /opt/stlm/bin/stlm
	shift
	/opt/stlm/bin/python /build/precompile.py "$@"
	;;
*)
	$install --no-deps --require-hashes -r "/build/requirements/$1.txt"
	;;
esac
