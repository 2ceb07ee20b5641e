"""The researcher's page: how the rating goes, who rates how, and what the machine reports."""
