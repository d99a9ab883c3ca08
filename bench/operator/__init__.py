"""The operator on a real API server: how many jobs at once, how soon one has its child, what those that wait cost.

``python -m bench.operator`` prints one JSON object a line, and on stderr what it is doing. Nobody runs the pods here,
so what is measured is the operator, the API server and etcd on the same cores.

How fast these are differs from machine to machine, so the figures come with a *floor* of the same run: the same jobs,
sent by a plain client without an operator. Per job, that is

- one apply of the FineTuneJob,
- one server-side apply of its first Job, as the operator builds it,
- one status write, by server-side apply: the status that the operator at commit 62dc198 wrote, of eight conditions and
  four stages, in the schema that it had then, without an atomic status. Both stay so, so that an operator that writes
  less, or more cheaply, gains by it.

Sixteen writers share one aiohttp session and send bodies that were encoded beforehand. For every round with an operator
there is one of the floor, on the same etcd and kube-apiserver; which comes first changes from round to round. Where two
operators are compared (``--against``), each has its own CustomResourceDefinition, and a floor beside it.

Figures that have targets:

- ``burst_share_of_floor``: child Jobs per second, of a burst of jobs, by the floor's jobs per second.
- ``settled_share_of_floor``: the same until all statuses are written: each job has a status in which its first stage
  has started, and nothing is queued.
- ``submit_over_apply``: median time from the answer to the apply of a FineTuneJob until its Job is there, by the API
  server's own word, by the median time of one apply of such a Job without an operator.
- ``pending_core_share``: what operator, kube-apiserver and etcd use while jobs wait for pods that do not start, above
  what they use in the same run while there is no job.
"""
