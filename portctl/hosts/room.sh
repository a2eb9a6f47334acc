# The first process of a room: covers the folders of the machine with throwaway ones, says `ready` with its process
# number outside, then waits until whoever opened the room is gone: its standard input ends, it exits, and the kernel
# ends all processes of the room with it.
# Arguments: `root` or `user` (who has no rights outside the room), and the room's host name.
set -eu
read -r outer rest </proc/self/stat
mounts=$(cat /proc/self/mountinfo)
mount -t proc proc /proc
hostname "$2"
mount -t tmpfs -o mode=755 portctl /run
mkdir /run/machine /run/pretend

covers=0
# Whatever is written below $1 is written to memory. $2: where its present contents are to be found.
cover() {
	covers=$((covers + 1))
	mkdir -p "/run/cover/$covers/up" "/run/cover/$covers/work"
	mount -t overlay -o "lowerdir=$2,upperdir=/run/cover/$covers/up,workdir=/run/cover/$covers/work" portctl "$1"
}

# Mounts inside a folder just covered: seen again, and covered themselves.
uncover() {
	point=$(printf '%b' "$(printf '%s' "$1" | sed 's/\\/\\0/g')")
	case $point in
	/ | /proc | /proc/* | /sys | /sys/* | /dev | /dev/* | /run | /run/*) return ;;
	esac
	if [ -d "$point" ]; then
		cover "$point" "/run/machine$point" 2>/dev/null || :
	elif [ -e "$point" ]; then
		mount --bind "/run/machine$point" "$point" && mount -o remount,bind,ro "$point"
	fi
}

# Settings that do not belong to a network namespace: the room gets a copy to write to.
pretend() {
	case $1 in */*) mkdir -p "/run/pretend/${1%/*}" ;; esac
	cp -R "/proc/sys/$1" "/run/pretend/$1" 2>/dev/null || :
	chmod -R u+w "/run/pretend/$1"
	mount --bind "/run/pretend/$1" "/proc/sys/$1"
}

if [ "$1" = root ]; then
	mount --rbind / /run/machine
	for folder in /*; do
		case $folder in
		/proc | /sys | /dev | /run) continue ;;
		esac
		if [ -d "$folder" ] && [ ! -L "$folder" ]; then cover "$folder" "$folder"; fi
	done
	printf '%s\n' "$mounts" | while read -r _ _ _ _ point _; do
		case $point in /*/*) uncover "$point" ;; esac
	done
	mount -t sysfs -o ro sysfs /sys
else
	mkdir /run/etc
	cp -R -P /etc/. /run/etc 2>/dev/null || :
	mount --bind /run/etc /etc
	mount -t tmpfs -o mode=755 portctl /var
	mount -t sysfs -o ro sysfs /sys 2>/dev/null || :
fi
pretend fs
pretend kernel
pretend vm
for name in core/rmem_default core/rmem_max core/wmem_default core/wmem_max netfilter/nf_conntrack_max; do
	if [ -e "/proc/sys/net/$name" ] && [ ! -w "/proc/sys/net/$name" ]; then pretend "net/$name"; fi
done
mount -t tmpfs -o mode=755 portctl /run
mkdir -p /run/lock /var/lib /var/log
ip link set lo up
echo "ready $outer"
# Not exec: the shell waits, and so takes in what daemons that lost their parent leave behind (cat would not).
cat >/dev/null
exit 0
