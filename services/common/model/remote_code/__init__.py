"""Code that is copied into every model directory, so that plain transformers loads it.

`AutoModelForCausalLM.from_pretrained(DIR, trust_remote_code=True)` imports these files without the
platform. They depend on torch and transformers alone and import nothing else of this repository.
"""
