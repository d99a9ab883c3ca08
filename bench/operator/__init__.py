"""The operator on a real API server: throughput of a burst of jobs, latency of one job, cost of jobs that wait.

``python -m bench.operator`` prints one JSON object per line, and its progress on stderr. No kubelet runs the pods, so
it measures the operator, the API server and etcd on the same cores.

Their speed differs between machines, so each run also measures a *floor*: a plain client that sends the same jobs
without an operator. For each job, the floor consists of

- one apply of the FineTuneJob,
- one server-side apply of its first Job, as the operator builds it,
- one status write, by server-side apply: the status that the operator at commit 62dc198 wrote, with eight conditions
  and four stages, in the schema of that commit, whose status is not atomic. Both stay fixed, so that an operator that
  writes less, or at a lower cost, shows a better figure.

Sixteen writers share one aiohttp session and send bodies that were encoded beforehand. Each round with an operator is
paired with a round of the floor, on the same etcd and kube-apiserver. The order alternates between rounds. If two
operators are compared (``--against``), each has its own CustomResourceDefinition and its own floor.

Figures with targets:

- ``burst_share_of_floor``: child Jobs per second in a burst of jobs, divided by the floor's jobs per second.
- ``settled_share_of_floor``: the same, measured until every job has a status in which its first stage has started, and
  the work queue is empty.
- ``submit_over_apply``: the median time from the response to the apply of a FineTuneJob until a watch of the API server
  shows its Job, divided by the median time of one apply of such a Job without an operator.
- ``pending_core_share``: the CPU cores that operator, kube-apiserver and etcd use while jobs wait for pods that do not
  start, minus what they use in the same run without jobs.
"""
