"""What the end of a run means to whoever started it; everything in `launch/` acts on these numbers.

     0  done
     1  failed: a defect of the program or of the machine, with a traceback
     2  wrong input, told in one line: a setting, a file, processes that do not agree
     3  the numbers diverged
    75  start me again and I go on: told to stop, a process is missing or gone, or no step for too long

Only 75 is worth a restart. All processes of a run end with the same number, that of the process which knows why.
"""

DONE = 0
FAILED = 1
WRONG_INPUT = 2
DIVERGED = 3
REQUEUE = 75  # EX_TEMPFAIL of sysexits.h
