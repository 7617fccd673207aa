"""How each provider's quota is learnt: asked in the background, cached, never on a request's path."""
