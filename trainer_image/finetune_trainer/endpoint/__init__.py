"""Models behind an endpoint with the API of OpenAI: questions, answers, and the store that keeps the answers.

`Client.ask` asks questions and returns an `Answer` or a `Failed` for each. An answer is asked for once in the life of a
job: it is kept in the storage of the job (`AnswerStore`) as soon as it arrives. `usable.verdict` decides whether an
answer can be used as text.
"""
