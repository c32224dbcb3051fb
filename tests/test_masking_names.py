"""Names of credentials, and names that only resemble them."""

from __future__ import annotations

from celery_stats.masking.names import is_secret_name


def test_is_secret_name__compares_words() -> None:
    words = ["api key", "API-KEY", "apiKey", "ApiKey2", "x_api_key", "HTTP_X_API_KEY", "apikey"]
    assert [name for name in words if not is_secret_name(name)] == []
    others = ["monkey", "keyword", "author", "key_prefix", "", "42", "://token", "ключ"]
    assert [name for name in others if is_secret_name(name)] == []


def test_is_secret_name__tells_which_or_what_of_a_credential__is_not() -> None:
    names = ["key_id", "token_id", "access_key_id", "key", "keys", "token_type", "page_token"]
    assert [name for name in names if is_secret_name(name)] == []
    names = ["secret_id", "JSESSIONID", "pw", "creds", "wifi_psk", "pin", "passwort", "psk2"]
    assert [name for name in names if not is_secret_name(name)] == []
