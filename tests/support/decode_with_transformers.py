"""A program that loads and decodes model directories with transformers alone: a task as JSON on
standard input, results as JSON in the last line of standard output.
"""

import json
import sys
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

# The platform may not be imported: the directory alone has to suffice.
sys.modules["services"] = None  # type: ignore[assignment]


def decode_by_hand(model: Any, prompt: list[int], budget: int) -> list[int]:
    """Call the model as published decoding scripts do: masks [1, B, K] of ones, store_kv."""
    block, mask_id = model.config.block_size, model.config.mask_token_id
    count = -(-(len(prompt) + budget) // block)
    visible = torch.ones(count, count).tril()
    visible = visible.repeat_interleave(block, 0).repeat_interleave(block, 1)[None]
    tokens = torch.full((1, count * block), mask_id)
    tokens[0, : len(prompt)] = torch.tensor(prompt)
    positions, cache = torch.arange(count * block)[None], DynamicCache()
    for begin in range(0, count * block, block):
        span = slice(begin, begin + block)
        options = {
            "attention_mask": visible[:, span, : begin + block],
            "position_ids": positions[:, span],
            "past_key_values": cache,
            "use_cache": True,
        }
        while (tokens[:, span] == mask_id).any():
            logits = model(tokens[:, span], store_kv=False, **options).logits[0]
            logits[:, mask_id] = logits[:, model.config.tokenizer_length :] = -torch.inf
            place = int((tokens[0, span] == mask_id).nonzero()[0])
            tokens[0, begin + place] = logits[place].argmax()
        model(tokens[:, span], store_kv=True, **options)
    response: list[int] = tokens[0, len(prompt) : len(prompt) + budget].tolist()
    return response


def refusals(model: Any, **options: Any) -> list[str]:
    """Messages of generate for each option alone."""
    messages = []
    for name, value in options.items():
        try:
            model.generate(torch.tensor([[5]]), **{name: value})
        except ValueError as error:
            messages.append(str(error))
    return messages


def losses(model: Any, prompt: list[int]) -> list[float]:
    """The loss for labels at even ids, from forward and from its logits."""
    ids = torch.tensor([prompt])
    labels = ids.where(ids % 2 == 0, -100)
    output = model(ids, labels=labels)
    chosen = output.logits.log_softmax(-1).gather(2, ids[..., None])[..., 0][labels != -100]
    return [float(output.loss), -float(chosen.mean())]


@torch.no_grad()
def run(path: str, task: dict[str, Any]) -> dict[str, Any]:
    """Everything that the tests ask of one directory."""
    model = AutoModelForCausalLM.from_pretrained(path, trust_remote_code=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=True)
    prompts, budget = task["prompts"], task["budget"]
    width = max(map(len, prompts))
    inputs = torch.tensor([[tokenizer.pad_token_id] * (width - len(ids)) + ids for ids in prompts])
    mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts])
    results: dict[str, Any] = {}
    for setting, chosen in task["settings"].items():
        options = {**chosen, "max_new_tokens": budget, "do_sample": False}
        batch = model.generate(inputs, attention_mask=mask, **options)[:, width:]
        alone = [model.generate(torch.tensor([ids]), **options)[0, len(ids) :] for ids in prompts]
        results[setting] = {"batch": batch.tolist(), "alone": [ids.tolist() for ids in alone]}
    results["by hand"] = [decode_by_hand(model, ids, budget) for ids in prompts]
    stopped = model.generate(
        torch.tensor([prompts[1]]),
        stopping_criteria=[lambda ids, _: ids.shape[1] >= 9],
        max_new_tokens=budget,
    )
    results["stopped"] = stopped.shape[1]
    results["refused"] = refusals(model, num_beams=4, unmasking_strategy="sideways")
    results["losses"] = losses(model, prompts[3])
    return results


if __name__ == "__main__":
    torch.set_num_threads(1)
    received = json.load(sys.stdin)
    found = {name: run(path, received) for name, path in received["directories"].items()}
    sys.stdout.write(json.dumps(found) + "\n")
