"""``finetune advise``: which methods and base models suit a job, what each costs, and which one to take.

``candidates`` lists the methods, ``costs`` asks the trainer what each needs, ``earlier`` and ``tries`` find their
speed, ``recommend`` orders them, ``models`` compares base models, and ``report`` shows all of it.
"""
