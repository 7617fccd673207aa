"""SmartFallback: routes each request to the LLM account that should answer it."""
