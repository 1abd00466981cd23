"""What a request or a task does, without a web framework: submit, fork, rewind, export, delete and so on."""
