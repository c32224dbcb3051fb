"""The pages of the demo project."""

from __future__ import annotations

from django.contrib import admin
from django.contrib.auth.decorators import login_required
from django.contrib.auth.views import LoginView
from django.urls import include, path
from django.views.generic import RedirectView
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerView

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="celery_stats:snapshot")),
    path("admin/", admin.site.urls),
    # The admin site's own login page turns away everybody who is not staff.
    path("login/", LoginView.as_view(template_name="admin/login.html"), name="login"),
    path("api/", include("celery_stats.urls")),
    path("api/schema/", SpectacularAPIView.as_view(), name="schema"),
    path("api/docs/", login_required(SpectacularSwaggerView.as_view()), name="docs"),
]
