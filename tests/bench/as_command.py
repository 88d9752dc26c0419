"""Set up the memory and the threads of this process as `restore` does. Import this module before PyTorch."""

from restorer.machine.malloc import keep_pages
from restorer.machine.threads import keep_to_quota, shorten_spin_wait

keep_to_quota()
shorten_spin_wait()
keep_pages()
