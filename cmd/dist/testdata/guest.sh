#!/bin/sh
# guest.sh DEB RPM: boots systemd in a container of the lab's guest, and there
# installs and removes the packages. LAB_OUT/log tells how it went; the last line
# of success is "all is well".
set -eu

outside() {
	# systemd empties /tmp when it starts, where the packages and LAB_OUT are.
	ln -s /dev/null /etc/tmpfiles.d/tmp.conf
	# After each package man-db would read all pages of the host again, which
	# takes the guest minutes.
	rm -f /var/lib/man-db/auto-update
	cat >/etc/systemd/system/dist-test.service <<-UNIT
		[Service]
		Type=oneshot
		Environment=LAB_OUT=$LAB_OUT
		ExecStart=/bin/sh $(readlink -f "$0") inside $1 $2
		ExecStopPost=/bin/systemctl --no-block exit 0
		StandardOutput=file:$LAB_OUT/log
		StandardError=inherit
	UNIT
	# In a PID namespace it is process 1, as it must be.
	container=lab exec unshare --pid --fork --mount --mount-proc sh -c '
		mount -t tmpfs -o mode=755 tmpfs /run
		exec /lib/systemd/systemd --system --unit=dist-test.service --log-target=console --show-status=0' </dev/null
}

say() { echo "== $*"; }

die() {
	echo "WRONG: $*"
	systemctl status --no-pager --lines=30 tcpbye || :
	exit 1
}

# What is where packages, systemd and dpkg put things.
tree() {
	for d in /usr/bin /usr/lib/systemd /usr/share/bash-completion /usr/share/fish /usr/share/zsh \
		/usr/share/licenses /usr/share/lintian/overrides /usr/share/man/man1 /etc /var/lib/systemd; do
		if [ -d "$d" ]; then find "$d" "$@"; fi
	done
	find /usr/share/doc -maxdepth 1 "$@"
	find /usr/share/doc/tcpbye "$@" 2>/dev/null || :
	find /var/lib/dpkg/info -name 'tcpbye*'
}

clean() { # BEFORE AFTER
	diff "$1" "$2" || die 'the removed package leaves or takes something'
}

there() {
	[ "$(command -v tcpbye)" = /usr/bin/tcpbye ] || die "tcpbye is $(command -v tcpbye)"
	tcpbye --version | grep -qx "tcpbye version v.*" || die "the version is $(tcpbye --version)"
	tcpbye explain data-after-close >/dev/null || die 'tcpbye explain fails'
	man -w tcpbye tcpbye-trace tcpbye-rst tcpbye-explain tcpbye-demo tcpbye-doctor >pages || die 'pages are missing'
	! grep -v '^/usr/share/man/man1/tcpbye' pages || die 'other pages are shown'
	# As bash does at the Tab key. compopt complains that it is not one.
	words=$(bash -c '. /usr/share/bash-completion/bash_completion
		_completion_loader tcpbye
		COMP_WORDS=(tcpbye tra) COMP_CWORD=1 COMP_LINE="tcpbye tra" COMP_POINT=10 COMP_TYPE=9
		__start_tcpbye 2>/dev/null
		echo "${COMPREPLY[@]}"')
	[ "$words" = trace ] || die "bash completes tcpbye tra with: $words"
	systemd-analyze verify tcpbye.service >verify 2>&1 || die "the unit: $(cat verify)"
	if grep tcpbye verify; then die 'systemd warns of the unit'; fi
	! systemctl is-enabled --quiet tcpbye || die 'the unit is enabled by default'
	! systemctl is-active --quiet tcpbye || die 'the unit was started'
}

# The service, with all its restrictions, must tell of a refused connection. It
# is tried until it has: when the hooks are attached the service does not say.
# It is a slow machine: three minutes are never enough only for what hangs.
serves() {
	systemctl enable --quiet --now tcpbye
	pid=$(systemctl show -P MainPID tcpbye)
	try=0
	until journalctl --unit=tcpbye TCPBYE_CAUSE=port-closed --output=cat | grep 'Nobody listens on 127.0.0.1:1' >told; do
		systemctl is-active --quiet tcpbye && [ "$(systemctl show -P MainPID tcpbye)" = "$pid" ] || die 'the service ended'
		if (: </dev/tcp/127.0.0.1/1) 2>/dev/null; then die 'somebody listens on port 1'; fi
		try=$((try + 1))
		[ "$try" -lt 180 ] || die 'the service tells nothing'
		sleep 1
	done
	grep -E '^(Cap(Bnd|Eff)|NoNewPrivs|Seccomp):' "/proc/$pid/status"
	head -n1 told | cut -c1-300
	# The journal explains it, from the package's catalog.
	journalctl --unit=tcpbye -x | grep -q 'More: tcpbye explain port-closed' || die 'journalctl -x does not explain'
	systemctl reload tcpbye
	try=0
	until journalctl --unit=tcpbye --output=cat | grep -q 'the settings were read again'; do
		try=$((try + 1))
		[ "$try" -lt 60 ] || die 'the settings are not read again'
		sleep 1
	done
	journalctl --unit=tcpbye --output=cat | grep 'cannot be attached' || :
}

gone() {
	[ ! -e "/proc/$pid" ] || die 'the service still runs'
	[ "$(systemctl show -P LoadState tcpbye)" = not-found ] || die 'systemd still knows the unit'
	hash -r # bash remembers where it was
	! command -v tcpbye || die 'tcpbye is still there'
}

inside() {
	cd "$(mktemp -d)"
	say "deb: install"
	tree >before
	dpkg -i "$1"
	there
	dpkg -V tcpbye || die 'files are not as in the package'
	say "deb: the service"
	serves
	say "deb: again, as an upgrade"
	dpkg -i "$1"
	[ "$(systemctl show -P MainPID tcpbye)" != "$pid" ] || die 'the service was not restarted'
	pid=$(systemctl show -P MainPID tcpbye)
	say "deb: remove"
	dpkg -r tcpbye
	gone
	[ -z "$(dpkg-query -W -f='${Status}' tcpbye 2>/dev/null)" ] || dpkg -P tcpbye
	tree >after
	clean before after

	say "rpm: install"
	tree -not -type d >before
	rpm --force-debian --nodeps -i "$2"
	there
	rpm --nodeps -V tcpbye || die 'files are not as in the package'
	say "rpm: the service"
	serves
	say "rpm: remove"
	rpm --force-debian -e tcpbye
	gone
	tree -not -type d >after
	clean before after
	for d in /usr/share/doc/tcpbye /usr/share/licenses/tcpbye; do
		[ ! -e "$d" ] || die "$d is left"
	done
	say "all is well"
}

if [ "$1" = inside ]; then
	shift
	# The shell of the service must be one that has /dev/tcp.
	if [ -z "${BASH_VERSION:-}" ]; then exec bash "$0" inside "$@"; fi
	inside "$@"
else
	outside "$@"
fi
