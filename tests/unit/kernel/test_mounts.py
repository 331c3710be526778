"""Types of mounted file systems, as the kernel's table states them."""

from __future__ import annotations

import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from natproxy.kernel.mounts import Mounts


class MountsTests(SynchronousTestCase):
    def test_types_are_read_from_the_table_and_kept_for_a_while(self) -> None:
        table = Path(self.mktemp())
        table.write_text(
            "36 35 0:41 / /dev/shm rw,nosuid shared:1 - tmpfs tmpfs rw\n"
            "37 35 0:42 / /srv rw - fuse.sshfs host: rw\n"
            "38 35 8:1 / / rw master:1 - ext4 /dev/sda1 rw\nmalformed\n- \n"
        )
        now = [0.0]
        mounts = Mounts(str(table), lambda: now[0])
        shm, fuse, disk = os.makedev(0, 41), os.makedev(0, 42), os.makedev(8, 1)
        self.assertEqual([mounts.in_memory(d) for d in (shm, fuse, disk)], [True, False, False])
        found = [mounts.has_local_clock(d) for d in (shm, fuse, disk)]
        self.assertEqual(found, [True, False, True])
        self.assertIsNone(mounts.type_of(os.makedev(0, 43)))
        # Another file system gets the number.
        table.write_text("36 35 0:41 / /mnt rw - fuse x rw\n")
        self.assertTrue(mounts.in_memory(shm))
        now[0] += 61
        self.assertFalse(mounts.in_memory(shm))
        self.assertIsNone(Mounts("/nonexistent").type_of(1))
