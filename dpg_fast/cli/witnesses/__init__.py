"""Commands of ``dpg-fast assess`` that ask witnesses which have no part in making an adapter."""
