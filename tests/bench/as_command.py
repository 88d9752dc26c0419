"""The process is told what `restore` tells its own about memory and threads. Import this before PyTorch."""

from restorer.machine.malloc import keep_pages
from restorer.machine.threads import keep_to_quota, shorten_spin_wait

keep_to_quota()
shorten_spin_wait()
keep_pages()
