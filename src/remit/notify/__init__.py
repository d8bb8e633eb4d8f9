"""Tells people elsewhere that an agent waits for them: a signed webhook, and Slack's incoming webhooks.

Only `remit.app` imports it. Nothing depends on a message arriving. What agents wrote is data in it, never markup.
"""
