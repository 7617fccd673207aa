"""The commented configuration that ``smartfallback init`` writes."""

from __future__ import annotations

from typing import Final

STARTER: Final = """\
# SmartFallback: which accounts answer, in which order. Check this file with "smartfallback check".
#
# It is complete as it stands: one Gemini account, whose key is read from the environment variable
# ANTIGRAVITY_KEY_1 (get a key at https://aistudio.google.com/apikey). Uncomment what else you have.
#
# Secrets are never written in here but referred to, in one of these ways:
#   { env = "NAME" }                        an environment variable
#   { keyring = "service/user" }            the system's keyring (pip install keyring)
#   { file = "path" }                       a file that only you can read
#   { command = ["pass", "show", "llm"] }   the first line that a command prints within 10 seconds

# A pool holds the accounts of one provider that stand for the same step.
[pools.antigravity]
provider = "gemini"                 # gemini | openai | copilot | opencode | local
model    = "gemini-2.5-flash"
strategy = "hybrid"                 # greedy | round_robin | sticky | lru | hybrid
# base_url       = "https://…"      # any compatible endpoint; for openai with its version: https://host/v1
# reserve        = "before_local"   # when quota between the two limits below is spent; or "never"
# context_tokens = 1_000_000        # longer conversations go elsewhere
# capabilities   = ["tools", "vision"]
# price          = { input = 0.30, output = 2.50 }   # US dollars for one million tokens
# cheaper_model  = "gemini-2.5-flash-lite"  # asked when no account is left for the usual one
# failed_model_s = 10               # what has just failed is passed over for so many seconds
# adaptive_concurrency = true       # an overloaded account runs fewer requests at once for a time

# [pools.antigravity.thresholds]    # percent used
# soft_limit = 80                   # above it, an account rests while another pool can answer
# hard_limit = 95                   # above it, an account is never used

# [pools.antigravity.timeouts]      # seconds
# connect_s     = 4
# first_token_s = 20
# idle_s        = 30
# adaptive_first_token = true       # wait less for a first token while answers begin sooner

# [pools.antigravity.account_circuit]
# preset = "rotation"               # rotation | chain | provider | service; single values may differ:
# recovery_timeout_s = 120

[[pools.antigravity.accounts]]
id      = "ag-1"
api_key = { env = "ANTIGRAVITY_KEY_1" }
# window: 5h | day | week | month; unit: tokens | requests | credits | fraction
quota   = [{ window = "week", unit = "tokens", limit = 5_000_000, resets = "sun 00:00 UTC" }]
# max_concurrency = 8
# project         = "my-project"    # accounts of one Google project share its quota

# [[pools.antigravity.accounts]]
# id      = "ag-2"
# api_key = { env = "ANTIGRAVITY_KEY_2" }
# quota   = [{ window = "week", unit = "tokens", limit = 5_000_000, resets = "sun 00:00 UTC" }]

# Any OpenAI-compatible server: OpenAI, OpenRouter, GitHub Models, vLLM, Ollama, llama.cpp, …
# [pools.openrouter]
# provider = "openai"
# model    = "meta-llama/llama-3.3-70b-instruct"
# base_url = "https://openrouter.ai/api/v1"
# [[pools.openrouter.accounts]]
# id      = "or-1"
# api_key = { env = "OPENROUTER_API_KEY" }

# A GGUF file on this machine (pip install "smartfallback-console[local]").
# [pools.local]
# provider   = "local"
# model_path = "~/models/model.gguf"
# [[pools.local.accounts]]
# id = "gguf"

# A chain names pools in the order in which they are asked. "default" is used unless another is named.
[chains.default]
pools = ["antigravity"]             # e.g. ["antigravity", "openrouter", "local"]
# timeout_s = 120                   # one limit over all tries of a request
# switch_on_content_filter = false  # ask the next pool when one refuses for its content
# on_break      = "continue"        # another account goes on with an answer that broke off; or "error"
# hedge_after_s = 8                 # ask a second account too when the first is silent for so long
# cache_s       = 3_600             # nobody can answer: give the same request's answer, up to so old
# queue_s       = 600               # nobody can answer: let the request wait for capacity, up to so long

# [recovery]                        # for all requests together
# retry_share   = 0.2               # retries and hedges, as a share of the requests of ten seconds
# retry_reserve = 10                # so many of them are always allowed
# queue_limit   = 100               # so many requests may wait

# State (usage, circuits, drains, chats) is kept in a file on this machine. With a Redis server several
# instances share it, so that together they never spend a quota twice.
# [state]
# redis_url = "redis://127.0.0.1:6379/0"   # or rediss://…, unix:///path,
#                                   # redis+sentinel://host:26379,host:26379/service, redis+cluster://host:7000,…
#                                   # with a password better { env = "SMARTFALLBACK_REDIS_URL" }
# mode      = "leased"              # each instance leases slices of a quota; "strict" asks for each request
# instance  = "desk"                # what the others call this one; unset: host name and process number
# prefix    = "smartfallback"       # what all keys begin with
"""
"""TOML text that :func:`smartfallback.config.load_config` accepts once the named key is set."""
